r"""The `math` verifier: exact comparison first, then the symbolic one of math-verify.

It knows the limits of math-verify and no processes. math-verify's own time-outs
are off, because they need signals: whoever calls this with unknown text puts a deadline around it.
"""

from __future__ import annotations

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from treepo.scoring.rational import Quantity, quantity
from treepo.scoring.refutation import far_apart
from treepo.scoring.structure import is_number, is_plain, same
from treepo.scoring.verifiers import exact, plain, register

# Longer than any answer; the limits keep what cannot be an answer away from the parser.
MAX_ANSWER = 2000
MAX_TEXT = 20_000
MAX_DEPTH = 40
MAX_DIGITS = 1000
# A decimal this close to a fraction that no decimal can write is that fraction in floating point.
FLOAT_NOISE = Fraction(1, 10**9)

_BLANKS = re.compile(r"\s+")
_WORD = re.compile(r"(?:\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{\s*)?([A-Za-z]{2,})\s*\}?")
_PHRASE = re.compile(r"[A-Za-z][A-Za-z0-9 ,.:'-]*")
_FONT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_QUALIFIER = re.compile(
    r"\b(?:[Nn]ot?|cannot|never|except|without|least|most|more|less|fewer|greater"
    r"|hundred|thousand|(?:m|b|tr)illion|dozen)\b"
)
_RELATION = re.compile(r"\\(?:n?eq|ne|[lg]eq?|[lg]eqslant|[lg]t|not)(?![A-Za-z])|[<>≤≥≠]")
# Bounded repeats only, and no blanks: this runs on hostile text without a deadline.
_BRACKET = r"[(){}]{0,4}"
_COSTLY = re.compile(
    rf"(?:\^|\*\*){_BRACKET}[+-]?\d{{0,9}}{_BRACKET}(?:\^|\*\*)"  # a tower: 9^{{9^...
    rf"|(?:\^|\*\*){_BRACKET}[+-]?\d{{5}}"  # a huge power
    rf"|\d{{5}}{_BRACKET}!|(?:\^|\*\*)[^!]{{0,40}}[)}}]!|!{_BRACKET}!"  # a huge factorial
    r"|\d[eE][+-]?\d{4}"
    rf"|\d{{{MAX_DIGITS}}}"
)


def shortcut(gold: str, answer: str) -> bool | None:
    """Decide what can be read in one way only; None where math-verify must."""
    if not gold.strip() or not answer.strip():
        return False
    if exact(gold, answer):
        return True
    if _spoken(gold) == _spoken(answer) != "":
        return True
    wanted_word, word = _WORD.fullmatch(plain(gold)), _WORD.fullmatch(plain(answer))
    if wanted_word and word and wanted_word[1].lower() == word[1].lower():
        return True
    if wanted_word and word and _is_other_word(wanted_word[1], word[1]):
        return False
    wanted, got = quantity(gold), quantity(answer)
    if wanted is not None and got is not None:
        return wanted.equals(got) or (wanted.unit == got.unit and _same_float(wanted, got))
    if not (is_harmless(gold) and is_harmless(answer)):
        return False
    if _is_text(answer):
        return None
    decided = same(gold, answer)
    return False if decided is None and _says_more(gold, answer) else decided


def _says_more(gold: str, answer: str) -> bool:
    """Whether one side alone holds a word or relation that math-verify would not read."""
    if bool(_QUALIFIER.search(gold)) != bool(_QUALIFIER.search(answer)):
        return True
    related = [bool(_RELATION.search(text)) for text in (gold, answer)]
    return any(related) and is_number(answer if related[0] else gold)


def _spoken(text: str) -> str:
    r"""A text of words without its \text{...}, so that \text{3 p.m.} is 3 p.m."""
    return plain(_FONT.sub(r" \1 ", text)) if len(text) <= MAX_ANSWER else ""


def _is_other_word(wanted: str, got: str) -> bool:
    """Whether both are words, and no product of the same letters, such as abc and bca."""
    return min(len(wanted), len(got)) > 2 and sorted(wanted.lower()) != sorted(got.lower())


def _same_float(wanted: Quantity, got: Quantity) -> bool:
    """Whether one is a fraction without an end as a decimal, and the other its many digits."""
    if abs(wanted.value - got.value) > abs(wanted.value) * FLOAT_NOISE:
        return False
    denominators = (wanted.value.denominator, got.value.denominator)
    return any(pow(10, number.bit_length(), number) != 0 for number in denominators if number > 1)


def is_harmless(text: str) -> bool:
    """Whether `text` is small and flat enough to give to a computer algebra system."""
    if len(text) > MAX_TEXT or _COSTLY.search(_BLANKS.sub("", text)):
        return False
    depth = 0
    for bracket in re.findall(r"[({\[]|[)}\]]", text):
        depth += 1 if bracket in "({[" else -1
        if depth > MAX_DEPTH:
            return False
    return True


def reads(gold: str) -> bool:
    """Whether the gold answer is a number, a formula, words, or something made of these."""
    if not gold.strip() or not is_harmless(gold):
        return False
    if _WORD.fullmatch(plain(gold)) or is_plain(gold) or _PHRASE.fullmatch(_spoken(gold)):
        return True
    return any(not isinstance(value, str) for value in _parsed_gold(gold))


@register("math", shortcut=shortcut, reads=reads)
def math(gold: str, answer: str) -> bool:
    """Whether `answer` is the same mathematical object as `gold`.

    answer: a bare answer (the content of a box), or a whole text that math-verify searches for
    one. May raise what sympy raises, and may take as long as sympy takes.
    """
    quick = shortcut(gold, answer)
    if quick is not None:
        return quick
    from math_verify import verify

    wanted = _parsed_gold(gold)
    got = _parse(_wrapped(answer))
    if wanted and got and far_apart(wanted[0], got[0]):
        return False
    return bool(verify(wanted, got, timeout_seconds=None))  # pyright: ignore[reportArgumentType]


def warm_up() -> None:
    """Load math-verify and the tables of its parser, so that forks of this process have them."""
    math(r"\frac{x}{2}+\sqrt{3}", r"\sqrt{3}+\frac{x}{2}")
    math(r"(1,2]", r"\left(1,2\right]")
    math(r"\sqrt{2}", r"\frac{\sqrt{3}}{2}")


def _is_text(answer: str) -> bool:
    """Whether `answer` is more than a bare answer, so that one has to be found in it."""
    words = re.findall(r"(?<![\\{A-Za-z])[A-Za-z]{2,}", answer)
    return len(answer) > MAX_ANSWER or "$$" in answer or "\n" in answer.strip() or len(words) > 3


def _wrapped(answer: str) -> str:
    """A bare answer in a box of its own; a text as it is."""
    return answer if _is_text(answer) else f"\\boxed{{{answer}}}"


@lru_cache(maxsize=4096)
def _parsed_gold(gold: str) -> list[Any]:
    return _parse(f"\\boxed{{{gold}}}")


def _parse(text: str) -> list[Any]:
    from math_verify import parse

    # It warns once that nobody limits its time; somebody does.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return parse(text, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
