"""Early stop: when a path ends (paper section 2.1).

`sampling.stops` names the checks in the order of their priority; the first that holds is the
path's finish. A check sees the path up to its new segment.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from treepo.params import RepetitionParams
from treepo.registry import Registry, call
from treepo.sampling.growth import Growth
from treepo.tree import Finish, Node, Segment

Stop = Callable[[Growth, Node, Segment], Finish | None]
STOPS: Registry[Stop] = Registry("sampling.stops")
"""Why a path ends after the node made of the segment; None where it may go on."""

_WORD = 8  # bytes
_BASE = np.uint64(6364136223846793005)


@STOPS.register("eos")
def eos(growth: Growth, node: Node, segment: Segment) -> Finish | None:
    """The policy ended the sequence."""
    return "eos" if segment.ended else None


@STOPS.register("answer")
def answer(growth: Growth, node: Node, segment: Segment) -> Finish | None:
    """A complete boxed answer, as if it were an end of sequence; not before min_tokens."""
    return "answer" if _long_enough(growth, node) and growth.answered(node) else None


@STOPS.register("answer_with_eos")
def answer_with_eos(growth: Growth, node: Node, segment: Segment) -> Finish | None:
    """A complete boxed answer only together with an end of sequence; without, the path goes on."""
    return "answer" if segment.ended and growth.answered(node) else None


@STOPS.register("repetition")
def repetition(growth: Growth, node: Node, segment: Segment) -> Finish | None:
    """The new segment repeats itself; not before min_tokens."""
    rule = growth.params.repetition
    if rule is None or not _long_enough(growth, node) or not repeats(growth.text(node), rule):
        return None
    return "repetition"


@STOPS.register("limits")
def limits(growth: Growth, node: Node, segment: Segment) -> Finish | None:
    """The most tokens or segments of a response are reached."""
    params, sampled = growth.params, growth.sampled(node)
    if sampled < params.token_limit:
        return None
    return "max_depth" if sampled >= params.depth * params.segment_length else "max_tokens"


def finish_reason(growth: Growth, node: Node, segment: Segment) -> Finish | None:
    """Why the path ends after `node`, made of `segment`; None where it goes on."""
    for name in growth.params.stops:
        reason = call(STOPS, name, growth, node, segment)
        if reason is not None:
            return reason
    return None


def _long_enough(growth: Growth, node: Node) -> bool:
    return growth.sampled(node) >= growth.params.min_tokens


def repeats(text: str, params: RepetitionParams) -> bool:
    """Whether some substring of `length` characters occurs `count` times, overlaps not counted."""
    if len(text) < params.length * params.count:
        return False
    return _may_repeat(text, params) and _repeats(text, params)


def _may_repeat(text: str, params: RepetitionParams) -> bool:
    """A quick look that misses no loop: whether two of some sparse pieces of the text are equal.

    Of `count` occurrences two start at the same remainder modulo count - 1. A piece that is short
    enough to lie in both, wherever the next multiple falls, is then seen twice. Pieces are told
    apart by their first and last eight bytes of UTF-8, of which a loop has as many as characters
    or more.
    """
    stride = min(params.count - 1, params.length)
    size = params.length - stride + 1
    if size < _WORD:
        return True
    data = text.encode(errors="surrogatepass")
    pieces = (len(data) - size) // stride + 1
    first, last = (np.ndarray(pieces, "<u8", data, place, (stride,)) for place in (0, size - _WORD))
    hashes = first * _BASE
    hashes += last
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any())


def _repeats(text: str, params: RepetitionParams) -> bool:
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
