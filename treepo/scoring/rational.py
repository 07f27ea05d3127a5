r"""Reads a number as an exact fraction: 1,234.5, -\frac34, 2\tfrac{1}{2}, 5\%, \$18, 10^{-7}.

It knows how numbers are written and nothing of verifiers. It evaluates nothing and its work is
bounded: what is long, or has a huge exponent, is not a number here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from treepo.scoring.units import MEASURED, SCALES, WORDS, Unit

MAX_CHARACTERS = 1000
MAX_EXPONENT = 10_000

_SPACE = r"\\[,!;: ]|~"
_THOUSANDS = re.compile(rf"(?<=\d)(?:(?:{_SPACE}|\{{,\}}|,\\!)(?=\d{{3}}(?!\d)))")
_FONT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])\s*\^\s*\{?[23]\}?$")
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree|°)\s*$")
_CURRENCY = re.compile(r"\\?\$|[€£¥₹]|\\(?:pounds|euro)\b")
_PERCENT = re.compile(r"\s*(?:\\?%|(?:percent(?:age)?|pct)\b\.?)$", re.IGNORECASE)
_SIMPLE = str.maketrans({"−": "-", "–": "-", "×": "*", "⁄": "/"})
_REWRITES = (
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "*"),
    (re.compile(_SPACE), " "),
    (re.compile(r"\\[()\[\]]"), ""),
)
_INT = r"\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+"
_DECIMAL = rf"(?:(?:{_INT})(?:\.\d*)?|\.\d+)"
_FLOAT = re.compile(rf"({_DECIMAL})(?:[eE]([+-]?\d+)|\s*\*\s*10\s*\^\s*\{{?\s*([+-]?\d+)\s*\}}?)?")
_RATIO = re.compile(rf"(?:(\d+)\s+)?({_DECIMAL})\s*/\s*(-?)\s*({_DECIMAL})")
_PART = rf"\{{\s*(-?)\s*({_DECIMAL})\s*\}}|()\s*(\d)"
_LATEX = re.compile(rf"(?:(\d+)\s*)?\\frac\s*(?:{_PART})\s*(?:{_PART})")
_POWER = re.compile(r"(\d+)\s*\^\s*(?:\{\s*(-?\d+)\s*\}|(\d))")


@dataclass(frozen=True, slots=True)
class Quantity:
    """`value` as written; `percent`: whether a percent sign stands after it; unit: where known."""

    value: Fraction
    percent: bool
    unit: Unit | None = None

    def equals(self, other: Quantity) -> bool:
        """The same number; where one side alone has a percent sign or a unit, it may be left out.

        5 hours are 300 minutes, and not 5 days.
        """
        if self.unit and other.unit and self.unit != other.unit:
            same_measure = self.unit.measure == other.unit.measure
            return same_measure and self.value * self.unit.size == other.value * other.unit.size
        if self.value == other.value:
            return True
        if self.percent == other.percent:
            return False
        left = self.value / 100 if self.percent else self.value
        right = other.value / 100 if other.percent else other.value
        return left == right


def quantity(text: str) -> Quantity | None:
    """The number that `text` writes, its currency and unit stripped; None where it is none."""
    if len(text) > MAX_CHARACTERS:
        return None
    body = text.translate(_SIMPLE).strip().rstrip(".").strip()
    body = _CURRENCY.sub("", _THOUSANDS.sub("", body))
    for pattern, plain in _REWRITES:
        body = pattern.sub(plain, body)
    body = _DEGREES.sub("", _FONT.sub(r" \1", body).strip())
    bare = _PERCENT.sub("", body)
    number, unit = _without_unit(bare)
    number, scale = _without_scale(number)
    value = _signed(number)
    return None if value is None else Quantity(value * scale, bare != body, unit)


def _without_scale(text: str) -> tuple[str, int]:
    """`text` without a word such as million at its end, and what it multiplies by."""
    number, _, word = text.rpartition(" ")
    scale = SCALES.get(word.lower(), 1)
    return (number, scale) if scale > 1 else (text, 1)


def _without_unit(text: str) -> tuple[str, Unit | None]:
    """`text` without the words of a unit at its end: "5 cm^2" is "5", "4 t" stays.

    The unit is None where it is none, or has several words or a power.
    """
    bare = _UNIT_POWER.sub("", text.strip())
    words = bare.split()
    names: list[str] = []
    while len(words) > 1 and words[-1].rstrip(".").lower() in WORDS:
        names.append(words.pop().rstrip(".").lower())
    plain = len(names) == 1 and bare == text.strip()
    return " ".join(words), MEASURED.get(names[0]) if plain else None


def _signed(text: str) -> Fraction | None:
    """The value of a number with signs and enclosing braces before and around it."""
    body = text.strip()
    if body.startswith("{") and body.endswith("}") and "{" not in body[1:]:
        body = body[1:-1].strip()
    sign = -1 if body.startswith("-") else 1
    if body[:1] in ("-", "+"):
        body = body[1:].strip()
    value = _unsigned(body)
    return None if value is None else sign * value


def _unsigned(text: str) -> Fraction | None:
    """The value of a number without a sign, in any of the notations of this module."""
    if found := _FLOAT.fullmatch(text):
        return _scaled(_decimal(found[1]), int(found[2] or found[3] or 0))
    if found := _POWER.fullmatch(text):
        exponent = int(found[2] or found[3])
        # Only powers of ten: other powers can be huge and are seldom another way to write a number.
        return _scaled(Fraction(1), exponent) if int(found[1]) == 10 else None
    if found := _RATIO.fullmatch(text):
        return _mixed(found[1], _decimal(found[2]), _decimal(found[4]), negative=bool(found[3]))
    if found := _LATEX.fullmatch(text):
        top, bottom = found[3] or found[5], found[7] or found[9]
        negative = bool(found[2]) != bool(found[6])
        return _mixed(found[1], _decimal(top), _decimal(bottom), negative=negative)
    return None


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", ""))


def _scaled(value: Fraction, exponent: int) -> Fraction | None:
    return None if abs(exponent) > MAX_EXPONENT else value * Fraction(10) ** exponent


def _mixed(
    whole: str | None, top: Fraction, bottom: Fraction, *, negative: bool
) -> Fraction | None:
    """Top over bottom, with a whole number before it where there is one; None where it is none."""
    if bottom == 0 or (whole and (negative or top >= bottom)):
        return None
    part = -top / bottom if negative else top / bottom
    return int(whole or 0) + part
