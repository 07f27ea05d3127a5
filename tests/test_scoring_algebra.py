"""What is decided without math-verify: closed forms against sympy, parts, units, no more."""

from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.scoring.math import math, shortcut
from treepo.scoring.notation import closed_form, points, simplified
from treepo.scoring.refutation import far_apart
from treepo.scoring.structure import same

# A small grammar of LaTeX beside the same in sympy.
ATOMS = st.one_of(
    st.integers(0, 9).map(lambda n: (str(n), sympy.Integer(n))),
    st.sampled_from(["x", "y"]).map(lambda name: (name, sympy.Symbol(name, positive=True))),
    st.sampled_from([2, 3, 6, 12]).map(lambda n: (f"\\sqrt{{{n}}}", sympy.sqrt(n))),
    st.sampled_from([2, 16]).map(lambda n: (f"\\sqrt[3]{{{n}}}", sympy.cbrt(n))),
    st.just(("\\pi", sympy.pi)),
    st.just(("i", sympy.I)),
)


def combined(inner):
    return st.one_of(
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}+{p[1][0]})", p[0][1] + p[1][1])),
        st.tuples(inner, inner).map(lambda p: (f"({p[0][0]}-{p[1][0]})", p[0][1] - p[1][1])),
        st.tuples(inner, inner).map(
            lambda p: (f"({p[0][0]}) \\cdot ({p[1][0]})", p[0][1] * p[1][1])
        ),
        st.tuples(inner, st.integers(1, 9)).map(
            lambda p: (f"\\dfrac{{{p[0][0]}}}{{{p[1]}}}", p[0][1] / p[1])
        ),
        inner.map(lambda p: (f"({p[0]})^{{2}}", p[1] ** 2)),
    )


EXPRESSIONS = st.recursive(ATOMS, combined, max_leaves=5)


@given(EXPRESSIONS, EXPRESSIONS)
@settings(max_examples=200)
def test_closed_forms_agree_with_sympy(one, other):
    left, right = (closed_form(simplified(text)) for text, _ in (one, other))
    assert left is not None
    assert right is not None
    assert left.equals(right) == (sympy.expand(one[1] - other[1]) == 0)
    for text, value in (one, other):
        again = closed_form(simplified(sympy.latex(sympy.expand(value))))
        if again is not None:
            assert again.equals(closed_form(simplified(text)))


@given(EXPRESSIONS, EXPRESSIONS)
@settings(max_examples=200)
def test_points_never_tell_the_same_apart(one, other):
    left, right = (points(simplified(text)) for text, _ in (one, other))
    if left and right and sympy.expand(one[1] - other[1]) == 0:
        assert not left.differs(right)


@given(st.fractions(max_denominator=99), st.fractions(max_denominator=99))
def test_closed_forms_of_fractions(one, other):
    left, right = (
        closed_form(f"\\frac{{{value.numerator}}}{{{value.denominator}}}") for value in (one, other)
    )
    assert left is not None
    assert right is not None
    assert left.rational() == one
    assert (left * right).rational() == one * other
    assert (left + right).rational() == one + other


@pytest.mark.parametrize(
    "text",
    [
        *("1/2x", "x^12", r"2\frac12", "f(2x)", "word", "AB", "2 3", "12_5", "x'", "|x|", "--5"),
        *(
            r"\frac{1}{0}",
            "0^{-1}",
            r"\sqrt{x+1}",
            "2^{x}",
            r"\sqrt{-2}^{1/3}",
            "(1",
            "1)",
            "",
            "^2",
        ),
        *("9^{9^9}", "(x+y+z)^{99}", "2^{9999999}", r"\sqrt{10000000019}", "(" * 90 + ")" * 90),
    ],
)
def test_what_can_be_read_in_two_ways_is_not_read(text):
    assert closed_form(simplified(text)) is None


DECIDED = [
    (r"3\sqrt3", r"\sqrt{27}", True),
    (r"\frac{1}{1+\sqrt2}", r"\sqrt2-1", True),
    (r"(3x+7)(x+1)", "3x^2+10x+7", True),
    ("x^2+2x+1", "(x-1)^2", False),
    (r"\pi", "3.14", False),
    (r"\frac{-1+\sqrt5}{2}", r"\frac{\sqrt5}{2}-.5", True),
    (r"2 \cos (\pi t)", r"3 \cos (\pi t)", False),
    ("(1,2)", r"\left( 1, 2 \right)", True),
    ("(1,2)", "(2,1)", False),
    ("(1,2]", "(1,2)", False),
    (r"\{1,2,3\}", r"\{3,1,2\}", True),
    (r"\{1,2,3\}", r"\{1,2\}", False),
    (r"2+\sqrt6, 2-\sqrt6", r"2\pm\sqrt6", True),
    ("7", "1, 7", False),
    (r"(-\infty,1)\cup(2,3)", r"(2,3) \cup (-\infty,1)", True),
    (r"\begin{pmatrix} -6 \\ 8 \end{pmatrix}", r"\begin{bmatrix} -6\\8 \end{bmatrix}", True),
    (r"\begin{pmatrix} -6 \\ 8 \end{pmatrix}", r"\begin{pmatrix} -6\\9 \end{pmatrix}", False),
    ("x=5", "5", True),
    ("x=5", "6", False),
    ("y=2x+1", "y = 1+2x", True),
    ("2x+3y=6", "4x + 6y - 12 = 0", True),
    (r"0.56 = 56\%", "0.56", True),
    ("5", "7 = 5", False),
    ("1202_3", "1202_{3}", True),
    ("1202_3", "1202_4", False),
    (r"5\text{ hours}", r"300\text{ minutes}", True),
    (r"5\text{ cm}", r"5\text{ m}", False),
    (r"5\text{ cm}", "5", True),
    ("5", r"5\text{ million}", False),
    (r"5\text{ million}", "5000000", True),
    (r"480+480\sqrt3\text{ feet}", r"480(1+\sqrt3)", True),
    (r"\text{3 p.m.}", "3 p.m.", True),
    ("even", "odd", False),
    ("5", r"\neq 5", False),
    ("5", "x > 5", False),
    (r"\frac12", r"\frac{1}{2}^2", False),
    (r"\text{C}", "(C)", True),
    ("A", "C", False),
]


@pytest.mark.parametrize(("gold", "answer", "correct"), DECIDED)
def test_decided_without_math_verify(gold, answer, correct):
    assert shortcut(gold, answer) is correct
    assert shortcut(answer, gold) is correct


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "5m"),  # a unit?
        ("X", "x"),
        ("1,234, 5", "1234, 5"),
        ("3.5", "3,5"),
        (r"(1,2)\cup[2,3)", "(1,3)"),
        ("x>5", r"(5,\infty)"),
        (r"\sin^2 x + \cos^2 x", "1"),
        (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"),
        ("x^2=0", "x=0"),
    ],
)
def test_left_to_math_verify(gold, answer):
    assert shortcut(gold, answer) is None


def test_what_math_verify_decides():
    assert math("x>5", r"(5,\infty)")
    assert math(r"\sqrt{3+2\sqrt2}", r"1+\sqrt2")
    assert math(r"\sin^2 x + \cos^2 x", "1")
    assert not math(r"(1,3)\cup(3,5)", "(1,5)")


@given(EXPRESSIONS, EXPRESSIONS)
@settings(max_examples=100)
def test_values_refute_only_what_differs(one, other):
    same_value = sympy.expand(one[1] - other[1]) == 0
    assert not (same_value and far_apart(one[1], other[1]))
    assert not far_apart(one[1], sympy.expand(one[1]))


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        (r"I(0) e^{-t/R}", r"I(1) e^{-t/R}", False),
        (r"I(0) e^{-t/R}", r"e^{-t/R} I(0)", True),
        (r"N(n)=\lfloor\frac{2 n}{3}\rfloor+1", r"N(n)=\lfloor\frac{2 n}{4}\rfloor+1", False),
        (r"N(n)=\lfloor\frac{2 n}{3}\rfloor+1", r"N(n)=1+\lfloor\frac{2 n}{3}\rfloor", True),
        (r"y=\frac{d!}{2k}", r"\frac{d!}{2k}", True),
        (r"y=\frac{d!}{2k}", r"\frac{d!}{3k}", False),
        (r"x^2+y^2=4", r"2x^2+2y^2=8", True),
        (r"abc", r"\text{abc}", True),
    ],
)
def test_values_stand_for_what_they_refute(gold, answer, correct):
    assert math(gold, answer) == correct


@pytest.mark.parametrize(
    ("one", "other", "different"),
    [
        ("x", "y", False),  # names are compared as words
        ("x + 1", "x + 2", True),
        ("x + 1", "x + 1 + 1e-9", False),
        ("Eq(f(n), 2*n)", "Eq(f(n), 3*n)", True),
        ("Eq(f(n), n)", "Eq(g(n), 2*n)", False),
        ("Eq(x, x**2)", "Eq(x, x**3)", False),
        ("Eq(y, 2*n)", "3*n", True),
        ("Derivative(f(x), x)", "x + 1", False),
        ("zoo + x", "x", False),
    ],
)
def test_what_values_tell_apart(one, other, different):
    assert far_apart(sympy.sympify(one), sympy.sympify(other)) == different


@given(
    st.text(alphabet=r"12x+-*/^_(){}[],=\ .%&" + "\ufdd0", max_size=40), st.sampled_from(DECIDED)
)
@settings(max_examples=300)
def test_no_text_makes_the_comparison_raise(text, row):
    same(text, row[0])
    same(row[0], text)


def test_values_are_exact():
    form = closed_form("0.1")
    assert form is not None
    assert form.rational() == Fraction(1, 10)
