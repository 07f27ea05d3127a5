"""Tells clearly different expressions apart by their values: most wrong answers, and quickly.

math-verify would try to simplify their difference to zero first, which takes many times as long.
It knows sympy's expressions and nothing of answers or verdicts; it says "different" or nothing.
"""

from __future__ import annotations

from typing import Any

# Relative difference of two values beyond all rounding that math-verify forgives (1e-6).
FAR = 1e-4
DIGITS = 20
# Values of the symbols: no whole numbers, where floor, factorials and trigonometry coincide.
FIRST_VALUE, STEP = "1.2360679774997897", "0.3819660112501051"


def far_apart(wanted: Any, got: Any) -> bool:
    """Whether two sympy objects are expressions whose values differ clearly; False where unsure.

    Expressions with symbols differ where they do so at one point. An equation that defines
    something ("N = ...") stands for its right side beside an expression, or beside an equation
    that defines the same. May raise and may take as long as sympy's numbers do.
    """
    sides = _comparable(wanted, got)
    if sides is None:
        return False
    left, right = _values(*sides)
    if left is None or right is None:
        return False
    return abs(left - right) > FAR * max(1.0, abs(left))


def _comparable(wanted: Any, got: Any) -> tuple[Any, Any] | None:
    """The two expressions to compare, None where values cannot decide."""
    from sympy import Eq, Expr, Symbol

    if isinstance(wanted, Eq) and isinstance(got, Eq):
        if wanted.lhs != got.lhs or not (_defines(wanted) and _defines(got)):
            return None
        wanted, got = wanted.rhs, got.rhs
    elif isinstance(wanted, Eq) and _defines(wanted):
        wanted = wanted.rhs
    if not isinstance(wanted, Expr) or not isinstance(got, Expr):
        return None
    # To math-verify one word is the product of its letters, and what prints alike is alike.
    if isinstance(wanted, Symbol) or isinstance(got, Symbol) or str(wanted) == str(got):
        return None
    return wanted, got


def _defines(equation: Any) -> bool:
    """Whether the left side is a name, or a function, that the right side does not hold."""
    from sympy import Symbol
    from sympy.core.function import AppliedUndef

    name = equation.lhs
    return isinstance(name, Symbol | AppliedUndef) and not equation.rhs.has(name)


def _values(wanted: Any, got: Any) -> tuple[complex | None, complex | None]:
    """Both expressions' values at one point; unknown functions stand for numbers, too."""
    from sympy import Derivative, Float, UnevaluatedExpr
    from sympy.concrete.expr_with_limits import ExprWithLimits
    from sympy.core.function import AppliedUndef

    # math-verify writes a percent sign as an unevaluated 1/100 and may leave it out.
    if any(side.has(UnevaluatedExpr, Derivative, ExprWithLimits) for side in (wanted, got)):
        return None, None
    names = [side.atoms(AppliedUndef) | side.free_symbols for side in (wanted, got)]
    point = {
        name: Float(FIRST_VALUE, DIGITS) + place * Float(STEP, DIGITS)
        for place, name in enumerate(sorted(set[Any]().union(*names), key=str))
    }
    return _value(wanted, point), _value(got, point)


def _value(expression: Any, point: dict[Any, Any]) -> complex | None:
    try:
        return complex(expression.xreplace(point).evalf(DIGITS))
    except (TypeError, ValueError, OverflowError):
        return None
