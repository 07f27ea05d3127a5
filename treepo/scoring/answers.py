r"""Finds the answer in a response: the content of the last closed \boxed{...}, or of a code block.

It knows LaTeX braces and fences, and nothing of what the answer means. The sampler asks it too,
whether an answer is complete. One pass over the text, so that no response can make it slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# An escaped character is a token of its own, so that \{ and \} never count as braces.
_TOKEN = re.compile(r"\\boxed[ \t\n]{0,8}\{|\\.|[{}]", re.DOTALL)

# What a response that uses no box says before its answer, and where the answer ends.
_LEAD = re.compile(r"<answer>|\banswer(?:\s+is)?\s{0,8}:|\banswer\s+is\b", re.IGNORECASE)
_END = re.compile(r"\n|</answer>|\.\s|\.$|<\|")
_FENCE = re.compile(r"^[ \t]{0,3}```[^\n`]*\n?", re.MULTILINE)

# What is to be judged, and why there is nothing ("" where there is something).
Found = tuple[str | None, str]


@dataclass(frozen=True, slots=True)
class Box:
    r"""One \boxed{...}: it opens at `start`, its content is `text[inner:end]` [characters]."""

    start: int
    inner: int
    end: int


def last_box(text: str) -> Box | None:
    r"""The last \boxed{...} whose braces close; of nested boxes the outer one.

    A box that holds nothing but another box gives way to that one. None where there is no closed
    box. `\boxed 5`, without braces, does not count.
    """
    # Openings not yet closed: where a box starts and where its content does; None a plain brace.
    open_braces: list[tuple[int, int] | None] = []
    last: Box | None = None
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark == "{":
            open_braces.append(None)
        elif mark == "}":
            opening = open_braces.pop() if open_braces else None
            if opening is not None and not _wraps(text, opening[1], last, token.start()):
                last = Box(*opening, token.start())
        elif mark.startswith("\\boxed"):
            open_braces.append(token.span())
    return last


def _wraps(text: str, inner: int, box: Box | None, end: int) -> bool:
    """Whether `text[inner:end]` is `box` and nothing else but blanks."""
    if box is None or box.start < inner:
        return False
    return not text[inner : box.start].strip() and not text[box.end + 1 : end].strip()


def boxed_answer(text: str) -> str | None:
    r"""Content of the last closed \boxed{...}, stripped; None where there is none.

    An empty box gives an empty text.
    """
    box = last_box(text)
    return None if box is None else text[box.inner : box.end].strip()


def stated_answer(text: str) -> str | None:
    """What stands after the last "answer:", "answer is" or "<answer>", to the end of the sentence.

    None where no such words stand in the text, or nothing after them.
    """
    ends = [lead.end() for lead in _LEAD.finditer(text)]
    if not ends:
        return None
    rest = text[ends[-1] :].lstrip()
    end = _END.search(rest)
    return (rest[: end.start()] if end else rest).strip(" *:") or None


def final_answer(response: str, boxed: bool) -> Found:
    r"""The last boxed answer; where no box is demanded and none stands, what the words state.

    A response without a box and without such words is taken as a whole.
    """
    answer = boxed_answer(response)
    if answer is None and boxed:
        return None, "no boxed answer"
    if answer is None and "\\boxed{" in response:
        return None, "box not closed"
    if answer is None:
        answer = stated_answer(response) or response.strip()
    return (answer, "") if answer else (None, "empty answer")


def last_code_block(response: str, boxed: bool) -> Found:
    """The last fenced block of code; where none is demanded and none stands, the whole response."""
    blocks = _FENCE.split(response)
    if len(blocks) < 3:
        return (None, "no fenced code") if boxed or not response.strip() else (response, "")
    # Between the fences stand the odd parts; one that is not closed is no answer.
    code = blocks[len(blocks) - 2 if len(blocks) % 2 else len(blocks) - 3]
    return (code, "") if code.strip() else (None, "empty answer")
