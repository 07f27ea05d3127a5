"""Families of reasoning-gym tasks, asked tersely, each with a short worked solution.

A family knows one task: its difficulty, how to ask it, how to work it out. It knows nothing about
mixes, splits or prompts. Gold answers are reasoning-gym's own, whatever the wording here.
"""

from __future__ import annotations

import ast
import operator
import random
import re
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Item = Mapping[str, Any]  # reasoning-gym's entry: "question", "answer", "metadata"
OPERATIONS: dict[type[ast.operator], tuple[str, Callable[[int, int], int]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
}


def _original(item: Item) -> str:
    return item["question"]


def _unsolved(_: Item) -> str:
    return ""


@dataclass(frozen=True)
class Family:
    r"""One task family.

    config: what reasoning-gym's generator is given; ask: the problem text of an entry; solve: its
    worked solution, plain ASCII that ends with `\boxed{ANSWER}`, or "" where there is none.
    """

    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ask: Callable[[Item], str] = _original
    solve: Callable[[Item], str] = _unsolved


def family_of(name: str) -> Family:
    """The family of that name; one that is not set up here asks and is as hard as its task is."""
    return FAMILIES.get(name, Family())


def known_families() -> list[str]:
    """The families set up here, then all other tasks of reasoning-gym."""
    with _own_random_state(0), warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        from reasoning_gym.factory import DATASETS

        return list(dict.fromkeys([*FAMILIES, *DATASETS]))


def generate(name: str, size: int, seed: int) -> list[dict[str, Any]]:
    """`size` entries of the family `name`, a function of `seed` alone; they may repeat problems."""
    with _own_random_state(seed), warnings.catch_warnings():
        # A dependency of reasoning-gym warns about its own syntax when first compiled.
        warnings.simplefilter("ignore", SyntaxWarning)
        import reasoning_gym  # takes seconds, and only generated problems need it

        entries = reasoning_gym.create_dataset(name, seed=seed, size=size, **family_of(name).config)
        return [entries[row] for row in range(size)]


@contextmanager
def _own_random_state(seed: int) -> Generator[None]:
    """Importing reasoning-gym draws from the global generators: afterwards, put them back."""
    before, before_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)


def _boxed(item: Item, steps: list[str]) -> str:
    return f"{';'.join(steps)} \\boxed{{{item['answer']}}}"


def _ask_expression(item: Item) -> str:
    """`( 3 + 4 * -2 )` -> `3+4*(-2)=?`: nothing superfluous, no two operators side by side."""
    plain = ast.unparse(ast.parse(item["metadata"]["expression"], mode="eval"))
    tight = plain.replace(" ", "")
    return re.sub(r"(?<=[+*-])(-\d+)", r"(\1)", tight) + "=?"


def _solve_expression(item: Item) -> str:
    """Every operation in the order in which the expression is evaluated: `4*(-2)=-8;3+(-8)=-5`."""
    steps: list[str] = []

    def value(node: ast.expr) -> int:
        match node:
            case ast.BinOp(left, kind, right):
                sign, apply = OPERATIONS[type(kind)]
                first, second = value(left), value(right)
                result = apply(first, second)
                steps.append(f"{first}{sign}{f'({second})' if second < 0 else second}={result}")
                return result
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.Constant(int(number)):
                return number
            case _:
                raise ValueError(f"no arithmetic: {item['metadata']['expression']}")

    value(ast.parse(item["metadata"]["expression"], mode="eval").body)
    return _boxed(item, steps)


def _ask_reversal(item: Item) -> str:
    return f"{item['metadata']['word']} backward?"


def _solve_reversal(item: Item) -> str:
    """The letters one by one, then in reverse: `s u n;n u s`."""
    word: str = item["metadata"]["word"]
    return _boxed(item, [" ".join(word), " ".join(reversed(word))])


def _ask_count(item: Item) -> str:
    text = " ".join(item["metadata"]["span"]).lower()  # the count ignores case
    return f"{item['metadata']['target_letter']} in {text}?"


def _solve_count(item: Item) -> str:
    """The text again, with the running count behind every hit: `t1ha2t`."""
    target: str = item["metadata"]["target_letter"]
    first, *others = " ".join(item["metadata"]["span"]).lower().split(target)
    marked = (f"{target}{number}{rest}" for number, rest in enumerate(others, 1))
    return _boxed(item, [first + "".join(marked)])


def _ask_divisor(item: Item) -> str:
    return f"gcd({','.join(map(str, item['metadata']['numbers']))})=?"


def _solve_divisor(item: Item) -> str:
    """Euclid's algorithm on two numbers: `48%36=12;36%12=0`."""
    small, large = sorted(item["metadata"]["numbers"])
    steps: list[str] = []
    while small:
        steps.append(f"{large}%{small}={large % small}")
        small, large = large % small, small
    return _boxed(item, steps)


def _solve_word_problem(item: Item) -> str:
    """reasoning-gym's own worked solution; its last line, `#### 28080`, becomes a boxed answer."""
    steps, _, _ = str(item["metadata"]["answer_cot"]).rpartition("####")
    return f"{steps.strip()}\nThe answer is \\boxed{{{item['answer']}}}."


# Easy enough to start from: a model of 0.8 million weights is right about half the time on
# chain_sum, products and spell_backward after 300 to 400 steps of supervised warm-up. With
# two-digit terms, chain_sum stays near one in seven.
FAMILIES: dict[str, Family] = {
    "chain_sum": Family(
        {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
        _ask_expression,
        _solve_expression,
    ),
    "products": Family(
        {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
        _ask_expression,
        _solve_expression,
    ),
    # Parentheses stay allowed: without them reasoning-gym's gold ignores operator precedence.
    "basic_arithmetic": Family(
        {
            "min_terms": 2,
            "max_terms": 3,
            "min_digits": 1,
            "max_digits": 1,
            "operators": ("+", "-", "*"),
            "allow_negation": False,
        },
        _ask_expression,
        _solve_expression,
    ),
    "gcd": Family({"min_value": 2, "max_value": 99}, _ask_divisor, _solve_divisor),
    "spell_backward": Family(
        {"min_word_len": 4, "max_word_len": 7}, _ask_reversal, _solve_reversal
    ),
    "letter_counting": Family({"min_words": 1, "max_words": 3}, _ask_count, _solve_count),
    "gsm_symbolic": Family(solve=_solve_word_problem),
}
