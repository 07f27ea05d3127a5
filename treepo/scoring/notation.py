r"""Reads LaTeX and plain text as closed forms: 3\sqrt2/4, (x+1)(x-2), \frac{2\pi}{3}, 1+2i.

It knows how expressions are written, and reads only what can be read in one way: what is ambiguous
(1/2x, x^12, 2\frac12, f(x), words) it leaves to others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Generic, Protocol, Self, TypeVar

from treepo.scoring.algebra import Closed, TooHard
from treepo.scoring.points import Points

MAX_CHARACTERS = 400
MAX_DEPTH = 30
# What stands for the line break of a matrix in simplified text: no character of any text.
NEW_ROW = "\ufdd0"

_REWRITES = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\\\", NEW_ROW),
        (r"(?<=\d)(?:,\\!|\{,\})\s*(?=\d{3})", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:left|right|big|Big|bigg|displaystyle|limits)(?![A-Za-z])", ""),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"\\[,!;: ]|\\q?quad(?![A-Za-z])|~", " "),
        (r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{\s*([A-Za-z])\s*\}", r" \1"),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\[()\[\]]|\$", ""),
        (r"\s+", " "),
        (r" (?![A-Za-z0-9.])|(?<![A-Za-z0-9.,]) ", ""),
    )
)
_SIMPLE = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*"})
_SYMBOLS = {"π": "\\pi ", "∞": "\\infty ", "∪": "\\cup ", "θ": "\\theta "}
_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_LETTERS = re.compile(r"[A-Za-z]{2,}")
_SUBSCRIPT = re.compile(
    r"_(?:([A-Za-z0-9])(?![A-Za-z0-9])|\{(?:\\(?:text|mathrm) ?\{)?([A-Za-z0-9]+)\}{1,2})"
)
_SIMPLE_CALL = re.compile(r"\([A-Za-z0-9]\)")
_MACRO = re.compile(r"\\([A-Za-z]+)\s*")
_GREEK = re.compile(
    r"(?:var)?(?:epsilon|theta|phi)|alpha|beta|gamma|delta|zeta|eta|iota|kappa|lambda|mu|nu|xi|rho"
    r"|sigma|tau|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega|pi|infty|hbar|ell"
)
_PLAIN_FRACTION = re.compile(r"\\frac\s*(?:\{\s*\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d)")
_APPLIED = frozenset("fghABCDEFGHIJKLMNOPQRSTUVWXYZ")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_SIMPLE_ARGUMENT = re.compile(r"[A-Za-z0-9.]|\\(?:frac|pi|theta|omega|alpha|beta|phi)(?![A-Za-z])")


class Arithmetic(Protocol):
    """What an expression is read into: exact closed forms, or values at points."""

    @classmethod
    def number(cls, value: Fraction) -> Self:
        """A rational number."""
        ...

    @classmethod
    def atom(cls, name: str) -> Self:
        """A constant or a letter."""
        ...

    def __add__(self, other: Self) -> Self: ...
    def __mul__(self, other: Self) -> Self: ...
    def __neg__(self) -> Self: ...
    def inverse(self) -> Self:
        """1 / self."""
        ...

    def power(self, exponent: Self) -> Self:
        """The power `self` ** exponent."""
        ...

    def applied(self, function: str) -> Self:
        """The function, such as "sin", of self."""
        ...


Value = TypeVar("Value", bound=Arithmetic)


def simplified(text: str) -> str:
    """`text` with one spelling for what has several; blanks are single, and say nothing."""
    text = text.translate(_SIMPLE)
    for symbol, macro in _SYMBOLS.items():
        text = text.replace(symbol, macro)
    for pattern, plain in _REWRITES:
        text = pattern.sub(plain, text)
    return text.strip().rstrip(".,; ")


@lru_cache(maxsize=8192)
def closed_form(text: str) -> Closed | None:
    """The closed form that simplified `text` writes; None where it is none."""
    return _read(text, Closed)


@lru_cache(maxsize=8192)
def points(text: str) -> Points | None:
    """The values of what simplified `text` writes; None where it cannot be evaluated."""
    return _read(text, Points)


def _read(text: str, arithmetic: type[Value]) -> Value | None:
    if len(text) > MAX_CHARACTERS:
        return None
    reader = _Reader(text, arithmetic)
    try:
        value = reader.sum()
    except TooHard:
        return None
    return None if reader.peek() else value


class _Reader(Generic[Value]):
    """A recursive-descent reader; each method reads what it is called after."""

    def __init__(self, text: str, arithmetic: type[Value]) -> None:
        self.text = text
        self.make = arithmetic
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        """The next character that is no blank, "" at the end."""
        while self.text[self.at : self.at + 1] == " ":
            self.at += 1
        return self.text[self.at : self.at + 1]

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooHard("deep nesting")
        total = self._signed(self.term)
        while self.peek() in ("+", "-"):
            total += self._signed(self.term)
        self.depth -= 1
        return total

    def _signed(self, read: Callable[[], Value]) -> Value:
        sign = self.peek()
        if sign in ("+", "-"):
            self.at += 1
            if self.peek() in ("+", "-"):
                raise TooHard("two signs")
        value = read()
        return -value if sign == "-" else value

    def term(self) -> Value:
        value, divided = self.factor(), False
        while True:
            sign = self.peek()
            if sign == "*":
                self.at += 1
                value *= self._signed(self.factor)
            elif sign == "/":
                self.at += 1
                value *= self._signed(self.factor).inverse()
                divided = True
            elif sign and sign not in ")]}+-":
                # Juxtaposition: in 1/2x nobody knows where the denominator ends.
                if divided or sign.isdigit() or sign == ".":
                    raise TooHard("ambiguous product")
                value *= self.factor()
            else:
                return value

    def factor(self) -> Value:
        value = self.primary()
        if self.peek() != "^":
            return value
        self.at += 1
        exponent = self.argument()
        if self.peek() in ("^", "!"):
            raise TooHard("a tower or a factorial")
        if self.text[self.at - 1].isdigit() and self.text[self.at : self.at + 1].isdigit():
            raise TooHard("ambiguous exponent")
        return value.power(exponent)

    def primary(self) -> Value:
        sign = self.peek()
        if sign in ("(", "[", "{"):
            return self._enclosed(sign)
        if found := _NUMBER.match(self.text, self.at):
            self.at = found.end()
            if self.peek() == "_" or _PLAIN_FRACTION.match(self.text, self.at):
                raise TooHard("a base or a mixed number")
            return self.make.number(Fraction(found[0]))
        if sign == "\\":
            return self._macro()
        if sign.isascii() and sign.isalpha():
            return self._letter()
        raise TooHard(f"unexpected {sign!r}")

    def _enclosed(self, opening: str) -> Value:
        self.at += 1
        value = self.sum()
        if self.peek() != _CLOSING[opening]:
            raise TooHard("unbalanced brackets")
        self.at += 1
        return value

    def argument(self) -> Value:
        """What a macro or ^ applies to: a group, or one digit, letter or macro."""
        sign = self.peek()
        if sign == "{":
            return self._enclosed("{")
        if sign.isascii() and sign.isdigit():
            self.at += 1
            return self.make.number(Fraction(int(sign)))
        if sign == "\\":
            return self._macro()
        if sign.isascii() and sign.isalpha():
            self.at += 1
            return self.make.atom(sign)
        raise TooHard("no argument")

    def _letter(self) -> Value:
        run = _LETTERS.match(self.text, self.at)
        # A word, or two points of a figure; xy is a product.
        if run and (len(run[0]) > 2 or not run[0].islower()):
            raise TooHard("a word")
        name = self.text[self.at]
        self.at += 1
        return self._named(name, applied=name in _APPLIED)

    def _macro(self) -> Value:
        found = _MACRO.match(self.text, self.at)
        if not found:
            raise TooHard("unknown markup")
        self.at = found.end()
        name = found[1]
        if name == "frac":
            top = self.argument()
            return top * self.argument().inverse()
        if name == "sqrt":
            return self._radical()
        if not _GREEK.fullmatch(name):
            return self._function(name)
        return self._named(f"\\{name}", applied=name not in ("pi", "infty"))

    def _radical(self) -> Value:
        order = self._enclosed("[") if self.peek() == "[" else self.make.number(Fraction(2))
        return self.argument().power(order.inverse())

    def _function(self, name: str) -> Value:
        r"""\sin(2x), \sin^2 x, \sin 2x; of \sin x(y) only \sin x."""
        exponent = None
        if self.peek() == "^":
            self.at += 1
            exponent = self.argument()
        if self.peek() in ("(", "{"):
            value = self._enclosed(self.peek())
        else:
            value = self.factor()
            while self.peek() and _SIMPLE_ARGUMENT.match(self.text, self.at):
                value *= self.factor()
        value = value.applied(name)
        return value if exponent is None else value.power(exponent)

    def _named(self, name: str, *, applied: bool) -> Value:
        """A letter with its subscript; `applied`: before a bracket it may be a function's name."""
        if found := _SUBSCRIPT.match(self.text, self.at):
            name = f"{name}_{found[1] or found[2]}"
            self.at = found.end()
        if applied and (found := _SIMPLE_CALL.match(self.text, self.at)):
            name += found[0]
            self.at = found.end()
        if self.peek() in ("_", "'") or (applied and self.peek() == "("):
            raise TooHard("a function or an unusual name")
        return self.make.atom(name)
