r"""Compares answers that have parts: tuples, intervals, sets, lists, unions, matrices, equations.

It knows brackets and how parts make a whole; single values it gives to `value`. Every function here
answers True where both are provably the same, False where they are provably not, and None where
neither is plain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from treepo.scoring.algebra import Closed, TooHard
from treepo.scoring.notation import NEW_ROW, closed_form, points, simplified
from treepo.scoring.points import Points
from treepo.scoring.rational import quantity

MAX_PARTS = 32
MAX_CHARACTERS = 2000
# A decimal of so many digits may be a number without an end in floating point.
MANY_DIGITS = 10**9

_OPENING, _CLOSING = "([{", ")]}"
_MATRIX = re.compile(r"\\begin\{([pbvBV]?)matrix\}(.*)\\end\{\1matrix\}", re.DOTALL)
_THOUSANDS = re.compile(r"\d,\d{3}(?!\d)")
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_BASED = re.compile(r"(\d+)_(?:(\d)|\{(\d+)\})")
_OR = re.compile(r"\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b")
_NAME = re.compile(r"(?:\\?[A-Za-z]|[A-Za-z]\([A-Za-z]\))(?:_(?:\w|\{\w+\}))?")
_UNITS = re.compile(
    r"\s*\\(?:text|mathrm|mbox)\s*\{\s*(?:square |cubic |sq\.? )?"
    r"(?:units?|inch(?:es)?|feet|foot|ft|miles?|met(?:er|re)s?|cm|mm|km|centimeters?|yards?|seconds?"
    r"|hours?|minutes?|days?|dollars?|degrees?|radians?)\s*\}(?:\s*\^\s*(?:\{\s*[23]\s*\}|[23]))?$"
)


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer with parts. kind: its brackets, such as "(" + "]"; "," a list without any."""

    kind: str
    parts: tuple[str, ...]

    @property
    def ordered(self) -> bool:
        """Whether the order of the parts says something: not in sets and bare lists."""
        return self.kind not in ("\\{\\}", ",", "\\cup")


def same(gold: str, answer: str) -> bool | None:
    """Whether two answers are the same, part by part; None where that needs more than reading."""
    if max(len(gold), len(answer)) > MAX_CHARACTERS:
        return None
    wanted, got = simplified(gold), simplified(answer)
    if wanted == got != "":
        return True
    outcome = _same(wanted, got)
    # 1,234 may be one number or two.
    ambiguous = any(_THOUSANDS.search(text) for text in (wanted, got))
    return None if ambiguous and not outcome else outcome


def is_plain(text: str) -> bool:
    """Whether all parts of `text` are numbers or formulas that are read here."""
    if len(text) > MAX_CHARACTERS:
        return False
    whole = _whole(simplified(text))
    parts = whole.parts if whole else (simplified(text),)
    return all(quantity(part) is not None or points(part) is not None for part in parts)


def _same(gold: str, answer: str) -> bool | None:
    """`same` of simplified texts."""
    if gold == answer and gold:
        return True
    wanted, got = _whole(gold), _whole(answer)
    if wanted and got:
        return _same_whole(wanted, got)
    if wanted or got:
        return _same_kind(wanted, got, gold, answer)
    if "=" in gold or "=" in answer:
        return _same_equation(gold.split("="), answer.split("="))
    return value(gold, answer)


def value(gold: str, answer: str) -> bool | None:
    """The same for two texts without parts: numbers with units and percent signs, or formulas."""
    wanted_number, number = quantity(gold), quantity(answer)
    if wanted_number is not None and number is not None:
        return wanted_number.equals(number)
    if _BASED.fullmatch(gold) or _BASED.fullmatch(answer):
        return _same_based(gold, answer)
    gold, answer = _UNITS.sub("", gold), _UNITS.sub("", answer)
    wanted, got = closed_form(gold), closed_form(answer)
    if wanted is None or got is None:
        return _tell_apart(gold, answer)
    try:
        return wanted.equals(got) or (None if _may_be_meant(wanted, got) else False)
    except TooHard:
        return _tell_apart(gold, answer)


def _tell_apart(gold: str, answer: str) -> bool | None:
    """False where the values at some points are clearly different."""
    wanted, got = (
        points(text) if number is None or number.percent else Points.number(number.value)
        for text, number in ((gold, quantity(gold)), (answer, quantity(answer)))
    )
    return False if wanted and got and wanted.differs(got) else None


def _same_based(gold: str, answer: str) -> bool | None:
    """The value of 1202_3; None where a side leaves the base out or is no number."""
    wanted, got = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if wanted and got:
        return _in_base(wanted) == _in_base(got)
    digits = wanted or got
    number = quantity(answer if wanted else gold)
    if digits is None or number is None:
        return None
    return None if number.value in (int(digits[1]), _in_base(digits)) else False


def _in_base(digits: re.Match[str]) -> int:
    """The value, also of digits that the base does not have."""
    base = int(digits[2] or digits[3])
    return sum(int(digit) * base**place for place, digit in enumerate(reversed(digits[1])))


def _may_be_meant(wanted: Closed, got: Closed) -> bool:
    """Whether different values may be the same for a reader: the unit of 5m, case, many digits."""
    letters, others = wanted.letters(), got.letters()
    if letters == others:
        return not letters and any(_has_many_digits(side) for side in (wanted, got))
    if {name.casefold() for name in letters} == {name.casefold() for name in others}:
        return True
    if not (letters < others or others < letters):
        return False
    unit, terms = letters ^ others, (wanted, got)
    return any(side.is_term() for side in terms) and (
        wanted.without(unit).equals(got.without(unit))
    )


def _has_many_digits(side: Closed) -> bool:
    number = side.rational()
    return number is not None and number.denominator >= MANY_DIGITS


def _whole(text: str) -> Whole | None:
    """The parts of `text`, None where it has none."""
    if found := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in found[2].removesuffix(NEW_ROW).split(NEW_ROW)]
        shape = ",".join(str(len(row)) for row in rows)
        bars = found[1] if found[1] in "vV" else ""
        return Whole(f"matrix {bars}{shape}", tuple(cell.strip() for row in rows for cell in row))
    if text.count("\\pm") == 1 and "\\mp" not in text:
        return Whole(",", tuple(text.replace("\\pm", sign) for sign in "+-"))
    unions = _split(text, "\\cup")
    if len(unions) > 1:
        return Whole("\\cup", unions)
    if text.startswith("{") and text.endswith("}") and _balanced(text[1:-1]):
        return _whole(text[1:-1])
    items = _split(_OR.sub(",", text), ",")
    if len(items) > 1:
        return Whole(",", tuple(item for item in items if item))
    for opening, closing in (("\\{", "\\}"), *((o, c) for o in "([" for c in ")]")):
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and _balanced(inner):
            parts = _split(inner, ",")
            # (x+1) only groups; [x] and \{x\} are more than x.
            plain = len(parts) == 1 and opening + closing == "()"
            return None if plain else Whole(opening + closing, parts)
    return None


def _split(text: str, separator: str) -> tuple[str, ...]:
    """`text` cut at the separators that stand in no bracket."""
    parts: list[str] = []
    depth = start = at = 0
    while at < len(text):
        if depth == 0 and text.startswith(separator, at):
            parts.append(text[start:at].strip())
            at = start = at + len(separator)
            continue
        depth += (text[at] in _OPENING) - (text[at] in _CLOSING)
        at += 1
    return (*parts, text[start:].strip())


def _balanced(text: str) -> bool:
    """Whether no bracket of `text` closes one before it."""
    depth = 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth < 0:
            return False
    return depth == 0


def _same_whole(wanted: Whole, got: Whole) -> bool | None:
    if max(len(wanted.parts), len(got.parts)) > MAX_PARTS:
        return None
    if wanted.ordered and wanted.kind == got.kind:
        return _same_order(wanted.parts, got.parts)
    if wanted.ordered or got.ordered:
        return False if _is_other_interval(wanted, got) else None
    outcome = _same_set(wanted.parts, got.parts)
    # 1,2 may stand for \{1,2\}, and a union can be cut in other places.
    decided = wanted.kind == got.kind and wanted.kind != "\\cup"
    return outcome if decided or outcome else None


def _is_other_interval(wanted: Whole, got: Whole) -> bool:
    """Whether one end of two intervals, or pairs, is open here and closed there."""
    sides = zip(wanted.kind, got.kind, wanted.parts, got.parts, strict=False)
    is_pair = all(len(whole.kind) == len(whole.parts) == 2 for whole in (wanted, got))
    return is_pair and any(
        one != other and "\\infty" not in low + high for one, other, low, high in sides
    )


def _same_kind(wanted: Whole | None, got: Whole | None, gold: str, answer: str) -> bool | None:
    """False for a number against several: all but the decimal comma of 3,5 is plain."""
    whole, text, single = (wanted, gold, answer) if wanted else (got, answer, gold)
    if whole is None or not is_number(single) or len(whole.parts) == 1:
        return None
    if _DECIMAL_COMMA.fullmatch(text):
        return False if value(text.replace(",", "."), single) is False else None
    several = whole.ordered or any(_same(*pair) is False for pair in pairwise(whole.parts))
    return False if several else None


def is_number(text: str) -> bool:
    """Whether `text` writes one number, without letters that might stand for several."""
    form = closed_form(text)
    if form is not None:
        return not form.letters()
    return quantity(text) is not None or _BASED.fullmatch(text) is not None


def _same_order(wanted: Sequence[str], got: Sequence[str]) -> bool | None:
    if len(wanted) != len(got):
        return False
    outcomes = [_same(one, other) for one, other in zip(wanted, got, strict=True)]
    if False in outcomes:
        return False
    return None if None in outcomes else True


def _same_set(wanted: Sequence[str], got: Sequence[str]) -> bool | None:
    """Whether each part of either has its like in the other; None where a part repeats."""
    if any(_same(*pair) is not False for side in (wanted, got) for pair in combinations(side, 2)):
        return None
    table = [[_same(one, other) for other in got] for one in wanted]
    if len(wanted) == len(got) and all(row.count(True) == 1 for row in table):
        return True
    undecided = any(outcome is None for row in table for outcome in row)
    return None if undecided else False


def _same_equation(gold: Sequence[str], answer: Sequence[str]) -> bool | None:
    """Whether x = 5 is 5, and 2x + 2y = 4 is x + y - 2 = 0.

    False only where the same name has another value.
    """
    gold, answer = _of_chain(gold), _of_chain(answer)
    if not (gold and answer):
        return False
    if max(len(gold), len(answer)) > 2:
        return None
    if len(gold) == len(answer) == 1:
        return _same(gold[0], answer[0])
    names = {side[0].replace(" ", "") for side in (gold, answer) if len(side) == 2}
    named = all(_NAME.fullmatch(name) for name in names)
    if named and len(names) == 1:
        return _same(gold[-1].strip(), answer[-1].strip())
    sides = [closed_form(side.strip()) for side in (*gold, *answer)]
    if len(gold) != len(answer) or None in sides:
        return None
    left, right, other_left, other_right = (side for side in sides if side is not None)
    try:
        return _proportional(left + -right, other_left + -other_right)
    except TooHard:
        return None


def _of_chain(sides: Sequence[str]) -> Sequence[str]:
    """The last of several numbers that are the same, as in 0.56 = 56%; none where they differ.

    What is no chain of numbers stays as it is.
    """
    first, *others = (side.strip() for side in sides)
    if not others or not all(map(is_number, (first, *others))):
        return sides
    outcomes = [_same(first, other) for other in others]
    return others[-1:] if all(outcomes) else [] if False in outcomes else sides


def _proportional(wanted: Closed, got: Closed) -> bool | None:
    """Whether one is a number times the other, term by term."""
    if wanted.bottom != got.bottom or wanted.top.keys() != got.top.keys():
        return None
    ratios = {wanted.top[monomial] / got.top[monomial] for monomial in wanted.top}
    return True if len(ratios) == 1 and wanted.letters() else None
