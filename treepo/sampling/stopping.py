"""Early stop: when a path ends (paper section 2.1).

Knows tokens through a `decode` function only. The order of the checks is their priority.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from treepo.params import RepetitionParams, SamplingParams
from treepo.scoring.answers import boxed_answer
from treepo.tree import Finish, Node, Segment, Tree

Decode = Callable[[Sequence[int]], str]


def repeats(text: str, params: RepetitionParams) -> bool:
    """Whether some substring of `length` characters occurs `count` times, overlaps not counted."""
    length = params.length
    seen: dict[str, tuple[int, int]] = {}
    for at in range(len(text) - length + 1):
        window = text[at : at + length]
        count, free_from = seen.get(window, (0, 0))
        if at >= free_from:
            count += 1
            if count >= params.count:
                return True
            seen[window] = (count, at + length)
    return False


def finish_reason(
    tree: Tree, node: Node, segment: Segment, params: SamplingParams, decode: Decode
) -> Finish | None:
    """Why the path ends after `node`, made of `segment`; None where it goes on."""
    if segment.ended:
        return "eos"
    if params.answer_stop and boxed_answer(decode(tree.response(node))) is not None:
        return "answer"
    if params.repetition and repeats(decode(segment.tokens), params.repetition):
        return "repetition"
    sampled = node.end - tree.root.end
    if sampled < params.token_limit:
        return None
    return "max_depth" if sampled >= params.depth * params.segment_length else "max_tokens"
