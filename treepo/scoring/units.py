"""Units that may stand after a number, and how those of one measure convert.

It knows single words; of what is written with several words or a power it only knows the words.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as a multiple of its measure's first: 1 hour is 3600 of "time"."""

    measure: str
    size: Fraction


def _of(measure: str, sizes: dict[str, str]) -> dict[str, Unit]:
    return {
        word: Unit(measure, Fraction(size))
        for size, words in sizes.items()
        for word in words.split()
    }


MEASURED = (
    _of(
        "length",
        {
            "1": "m meter meters metre metres",
            "1/1000": "mm millimeter millimeters",
            "1/100": "cm centimeter centimeters centimetre centimetres",
            "1000": "km kilometer kilometers kilometre kilometres",
            "127/5000": "in inch inches",
            "381/1250": "ft foot feet",
            "1143/1250": "yd yard yards",
            "201168/125": "mile miles",
        },
    )
    | _of(
        "time",
        {
            "1": "s sec second seconds",
            "60": "min mins minute minutes",
            "3600": "h hr hrs hour hours",
            "86400": "day days",
            "604800": "week weeks",
        },
    )
    | _of("months", {"1": "month months", "12": "year years"})
    | _of(
        "mass",
        {
            "1": "g gram grams",
            "1/1000": "mg milligram milligrams",
            "1000": "kg kilogram kilograms",
        },
    )
    | _of("volume", {"1": "l liter liters litre litres", "1/1000": "ml milliliter milliliters"})
    | _of("money", {"1": "dollar dollars", "1/100": "cent cents"})
)
_OTHER = """
    units unit degrees degree deg euros pounds square cubic per lb lbs ounces oz km/h mph m/s
"""
WORDS = frozenset(_OTHER.split()) | MEASURED.keys()
SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
