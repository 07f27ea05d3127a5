"""Approximate arithmetic: the values of an expression at a few points, to tell expressions apart.

It knows complex numbers and nothing of notation. Each letter has values of its own at the points;
expressions whose values differ clearly are different. Nothing is called equal here.
"""

from __future__ import annotations

import cmath
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from treepo.scoring.algebra import TooHard

POINTS = 3
# Relative difference beyond all rounding, here and of a gold answer's decimals.
FAR = 1e-4
LARGEST = 1e100
NAN = complex(cmath.nan, 0)

CONSTANTS = {"i": 1j, "e": cmath.e, "\\pi": cmath.pi}
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda z: 1 / cmath.tan(z),
    "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z),
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "exp": cmath.exp,
    "ln": cmath.log,
}


@dataclass(frozen=True, slots=True)
class Points:
    """An expression's values at the points, NAN where it has none, and its letters."""

    values: tuple[complex, ...]
    letters: frozenset[str]

    @classmethod
    def number(cls, value: Fraction) -> Points:
        """A rational number."""
        return cls((_value(complex, value),) * POINTS, frozenset())

    @classmethod
    def atom(cls, name: str) -> Points:
        """A constant, or a letter: positive values that its name decides."""
        if name in CONSTANTS:
            return cls((CONSTANTS[name],) * POINTS, frozenset())
        if name == "\\infty":
            raise TooHard("infinity")
        spread = (zlib.crc32(f"{name} {point}".encode()) / 2**32 for point in range(POINTS - 1))
        # At the last point all letters are 1: what a unit is worth.
        return cls((*(0.5 + value for value in spread), 1), frozenset({name}))

    def __add__(self, other: Points) -> Points:
        return self._with(other, lambda a, b: a + b)

    def __mul__(self, other: Points) -> Points:
        return self._with(other, lambda a, b: a * b)

    def __neg__(self) -> Points:
        return Points(tuple(-value for value in self.values), self.letters)

    def inverse(self) -> Points:
        """1 / self."""
        return self.map(lambda value: 1 / value)

    def power(self, exponent: Points) -> Points:
        """The power `self` ** exponent; roots of negative numbers are the principal ones."""
        return self._with(exponent, lambda a, b: a**b)

    def applied(self, function: str) -> Points:
        r"""The function, such as "sin" for \sin, of self. Raises TooHard for an unknown one."""
        if function not in _FUNCTIONS:
            raise TooHard(f"unknown \\{function}")
        return self.map(_FUNCTIONS[function])

    def map(self, function: Callable[[complex], complex]) -> Points:
        """`function` of each value."""
        return Points(tuple(_value(function, value) for value in self.values), self.letters)

    def _with(self, other: Points, combine: Callable[[complex, complex], complex]) -> Points:
        pairs = zip(self.values, other.values, strict=True)
        values = tuple(_value(combine, *pair) for pair in pairs)
        return Points(values, self.letters | other.letters)

    def differs(self, other: Points) -> bool:
        """Whether the values are clearly different: at one point, or as units at all of them.

        With the same letters one point is enough. With other letters, which may be units (5m
        for 5), all points at which both have a value must tell them apart.
        """
        pairs = zip(self.values, other.values, strict=True)
        far = [_far(*pair) for pair in pairs if not any(map(cmath.isnan, pair))]
        return any(far) if self.letters == other.letters else bool(far) and all(far)


def _value(function: Callable[..., complex], *arguments: complex | Fraction) -> complex:
    """`function` of the arguments, NAN where it has no value or a huge one."""
    try:
        value = function(*arguments)
    except (ValueError, OverflowError, ZeroDivisionError):
        return NAN
    return value if abs(value) < LARGEST else NAN


def _far(left: complex, right: complex) -> bool:
    return abs(left - right) > FAR * max(1.0, abs(left), abs(right))
