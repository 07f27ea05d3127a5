r"""Exact arithmetic on closed forms: sums of rational multiples of radicals, i, pi and letters.

It knows monomials and nothing of notation. Every number has one form only: powers of different
primes with exponents in [0, 1) are linearly independent over the rationals (Besicovitch 1940), and
letters and pi are independent of them. So two closed forms are equal exactly where their forms
agree, which decides equality both ways. The work is bounded; beyond the bound it raises `TooHard`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

MAX_TERMS = 200
MAX_BITS = 8000
MAX_RADICAND = 10**8
IMAGINARY = "i"

# Atoms and their exponents, sorted: ("2", 1/2), ("x", 3). A prime's exponent lies in (0, 1).
Monomial = tuple[tuple[str, Fraction], ...]
Sum = dict[Monomial, Fraction]

ONE: Sum = {(): Fraction(1)}
# Not letters: they are numbers, whatever a problem calls its unknowns.
NUMBERS = frozenset({IMAGINARY, "\\pi", "e", "\\infty"})


class TooHard(ValueError):
    """The expression leaves what this arithmetic can do, or is too large for it."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed form: `top` / `bottom`. A bottom of one term is folded into the top."""

    top: Sum
    bottom: Sum

    @classmethod
    def number(cls, value: Fraction) -> Closed:
        """A rational number."""
        return cls({(): value} if value else {}, ONE)

    @classmethod
    def atom(cls, name: str) -> Closed:
        """A letter, pi, or the imaginary unit."""
        return cls({((name, Fraction(1)),): Fraction(1)}, ONE)

    def __add__(self, other: Closed) -> Closed:
        if self.bottom == other.bottom:
            return Closed(_added(self.top, other.top), self.bottom)
        top = _added(_product(self.top, other.bottom), _product(other.top, self.bottom))
        return Closed(top, _product(self.bottom, other.bottom))

    def __mul__(self, other: Closed) -> Closed:
        return Closed(_product(self.top, other.top), _product(self.bottom, other.bottom))

    def __neg__(self) -> Closed:
        return self * Closed.number(Fraction(-1))

    def inverse(self) -> Closed:
        """1 / self. Raises TooHard for zero."""
        if not self.top:
            raise TooHard("division by zero")
        if len(self.top) > 1:
            return Closed(self.bottom, self.top)
        (monomial, factor), *_ = self.top.items()
        inverted = _term(((name, -power) for name, power in monomial), 1 / factor)
        return Closed(_product(self.bottom, inverted), ONE)

    def equals(self, other: Closed) -> bool:
        """The same number, or the same function of the letters."""
        return _product(self.top, other.bottom) == _product(other.top, self.bottom)

    def rational(self) -> Fraction | None:
        """The value where it is a rational number."""
        if self.bottom != ONE or self.top.keys() - {()}:
            return None
        return self.top.get((), Fraction(0))

    def power(self, exponent: Closed) -> Closed:
        """The power `self` ** exponent, a root where that is no whole number."""
        number = exponent.rational()
        if number is None:
            raise TooHard("an exponent that is no number")
        if number.denominator != 1:
            return self._root(number)
        count = abs(number.numerator)
        if count * _bits(self) > MAX_BITS:
            raise TooHard("a large power")
        result, square = Closed.number(Fraction(1)), self
        while count:
            result = result * square if count & 1 else result
            count >>= 1
            square = square * square if count else square
        return result.inverse() if number < 0 else result

    def applied(self, function: str) -> Closed:
        """No function has a closed form here. Raises TooHard."""
        raise TooHard(f"the function {function}")

    def _root(self, exponent: Fraction) -> Closed:
        """A power with a fraction as exponent: of a rational number or of one letter."""
        value = self.rational()
        if value is None:
            ((monomial, factor), *others) = self.top.items()
            if self.bottom != ONE or others or factor != 1 or len(monomial) != 1:
                raise TooHard("a root of a sum")
            (name, power) = monomial[0]
            if power != 1 or name in (IMAGINARY, "\\infty") or name.isdigit():
                raise TooHard("a root of a power")
            return Closed({((name, exponent),): Fraction(1)}, ONE)
        if value == 0 and exponent > 0:
            return self
        if value == 0 or abs(exponent) > MAX_TERMS or (value < 0 and exponent.denominator != 2):
            raise TooHard("no real root")
        sign = [(IMAGINARY, Fraction(exponent.numerator))] if value < 0 else []
        primes = [(str(p), n * exponent) for p, n in _factors(abs(value.numerator))]
        primes += [(str(p), -n * exponent) for p, n in _factors(value.denominator)]
        return Closed(_term([*sign, *primes], Fraction(1)), ONE)

    def letters(self) -> frozenset[str]:
        """The unknowns that occur."""
        return frozenset(
            name
            for part in (self.top, self.bottom)
            for monomial in part
            for name, _ in monomial
            if not name.isdigit() and name not in NUMBERS
        )

    def is_term(self) -> bool:
        """Whether it is one product, such as 5m, which may be a number with its unit."""
        return len(self.top) <= 1 and self.bottom == ONE

    def without(self, names: frozenset[str]) -> Closed:
        """The same with the given letters left out of every product."""
        parts: list[Sum] = []
        for part in (self.top, self.bottom):
            total: Sum = {}
            for monomial, factor in part.items():
                kept = tuple(power for power in monomial if power[0] not in names)
                total = _added(total, {kept: factor})
            parts.append(total)
        return Closed(*parts)


def _bits(value: Closed) -> int:
    """About how many bits a power takes for each of its exponent's counts."""
    parts = [f for part in (value.top, value.bottom) for f in part.values()]
    bits = sum(f.numerator.bit_length() + f.denominator.bit_length() for f in parts)
    return bits + 16 * (len(parts) - 2 + (not value.top))


def _added(left: Sum, right: Sum) -> Sum:
    total = dict(left)
    for monomial, factor in right.items():
        new = total.get(monomial, Fraction(0)) + factor
        if new:
            total[monomial] = new
        else:
            total.pop(monomial, None)
    return total


def _product(left: Sum, right: Sum) -> Sum:
    if left == ONE:
        return right
    if right == ONE:
        return left
    if len(left) * len(right) > MAX_TERMS:
        raise TooHard("too many terms")
    total: Sum = {}
    for first, one in left.items():
        for second, other in right.items():
            for monomial, factor in _term([*first, *second], one * other).items():
                total[monomial] = total.get(monomial, Fraction(0)) + factor
    return {monomial: factor for monomial, factor in total.items() if factor}


def _term(powers: Iterable[tuple[str, Fraction]], f: Fraction) -> Sum:
    """The product of `f` and some powers, in its only form."""
    exponents: dict[str, Fraction] = {}
    for name, power in powers:
        exponents[name] = exponents.get(name, Fraction(0)) + power
    for name, power in exponents.items():
        if name == IMAGINARY:
            f = -f if power % 4 >= 2 else f
            exponents[name] = power % 2
        elif name.isdigit():
            f *= Fraction(int(name)) ** (power.numerator // power.denominator)
            exponents[name] = power % 1
    if f.numerator.bit_length() + f.denominator.bit_length() > 2 * MAX_BITS:
        raise TooHard("a large number")
    return {tuple(sorted((name, power) for name, power in exponents.items() if power)): f}


def _factors(number: int) -> list[tuple[int, int]]:
    """Primes and how often each divides `number`, by trial division."""
    if number > MAX_RADICAND:
        raise TooHard("a large radicand")
    found: list[tuple[int, int]] = []
    divisor = 2
    while divisor * divisor <= number:
        count = 0
        while number % divisor == 0:
            number //= divisor
            count += 1
        if count:
            found.append((divisor, count))
        divisor += 1 if divisor == 2 else 2
    return [*found, (number, 1)] if number > 1 else found
