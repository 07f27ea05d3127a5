"""Task families and their mix: gold, worked solutions, sizes, weights, bad names."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from problems import TOKENIZER, params, problems

from treepo.data import FAMILIES, load
from treepo.data.families import Family, generate
from treepo.data.mix import normalised
from treepo.errors import UserError

SOLVED = [name for name, family in FAMILIES.items() if family is not FAMILIES["gsm_symbolic"]]


@pytest.mark.parametrize("name", FAMILIES)
def test_gold_gets_full_marks_from_the_original_scorer(name: str):
    import reasoning_gym

    scorer = reasoning_gym.create_dataset(name, seed=1, size=1, **FAMILIES[name].config)
    for item in generate(name, 200, 7):
        assert scorer.score_answer(item["answer"], item) == 1.0


@pytest.mark.parametrize("name", SOLVED)
def test_solutions_are_short_plain_and_end_in_the_gold_answer(name: str):
    for item in generate(name, 200, 7):
        problem, solution = FAMILIES[name].ask(item), FAMILIES[name].solve(item)
        if solution.isascii():
            assert problem.isascii()
            assert len(TOKENIZER.encode(problem)) <= 60
            assert len(TOKENIZER.encode(solution)) <= 80
            assert solution.endswith(f" \\boxed{{{item['answer']}}}")
            assert solution.count("\\boxed{") == 1
            assert "\n" not in problem + solution


@pytest.mark.parametrize("name", ["chain_sum", "products", "basic_arithmetic"])
def test_every_step_of_an_expression_is_right_and_the_last_one_is_gold(name: str):
    for item in generate(name, 200, 7):
        assert eval(FAMILIES[name].ask(item).removesuffix("=?")) == int(item["answer"])  # noqa: S307
        steps = FAMILIES[name].solve(item).split(" ")[0].split(";")
        for step in steps:
            left, _, right = step.partition("=")
            assert eval(left) == int(right)  # noqa: S307
        assert steps[-1].endswith(f"={item['answer']}")


def worked(name: str, answer: str, **metadata: Any) -> tuple[str, str]:
    item = {"answer": answer, "metadata": metadata}
    return FAMILIES[name].ask(item), FAMILIES[name].solve(item)


def test_solutions_by_hand():
    assert worked("chain_sum", "-37", expression="3 + 41 - 81") == (
        "3+41-81=?",
        "3+41=44;44-81=-37 \\boxed{-37}",
    )
    assert worked("basic_arithmetic", "-5", expression="( 3 + 4 * -2 )") == (
        "3+4*(-2)=?",
        "4*(-2)=-8;3+(-8)=-5 \\boxed{-5}",
    )
    assert worked("gcd", "12", numbers=[36, 48]) == (
        "gcd(36,48)=?",
        "48%36=12;36%12=0 \\boxed{12}",
    )
    assert worked("spell_backward", "nus", word="sun") == (
        "sun backward?",
        "s u n;n u s \\boxed{nus}",
    )
    assert worked("letter_counting", "2", target_letter="t", span=["That", "is"]) == (
        "t in that is?",
        "t1hat2 is \\boxed{2}",
    )
    with pytest.raises(ValueError, match="no arithmetic"):
        worked("chain_sum", "1", expression="a + 1")


def test_generating_leaves_the_global_random_state_alone():
    state, state_numpy = random.getstate(), np.random.get_state()[1].tolist()
    for name in FAMILIES:
        generate(name, 3, 1)
    assert random.getstate() == state
    assert np.random.get_state()[1].tolist() == state_numpy


# The generated mix


def test_a_mix_has_its_sizes_its_weights_and_no_problem_twice():
    mix = params(families={"chain_sum": 2, "products": 1, "gcd": 1}, train_size=200)
    train, heldout = load(mix, 3)
    assert train.column_names == ["problem", "answer", "solution", "family"]
    assert Counter(train["family"]) == {"chain_sum": 100, "products": 50, "gcd": 50}
    assert (len(train), len(heldout)) == (200, 5)
    everything = [normalised(text) for text in problems(train) + problems(heldout)]
    assert len(set(everything)) == 205
    assert train["family"][:20] != ["chain_sum"] * 20


def test_word_problems_come_as_they_are():
    train, _ = load(params(families={"gsm_symbolic": 1}), 0)
    for solution, answer in zip(train["solution"], train["answer"], strict=True):
        assert solution.endswith(f"\nThe answer is \\boxed{{{answer}}}.")
        assert "####" not in solution
    assert all(float(answer) == int(answer) for answer in train["answer"])
    assert all(len(text) > 60 for text in train["problem"])


@pytest.mark.parametrize(
    ("name", "hint"), [("chain_sums", "did you mean 'chain_sum'?"), ("zzz", "there are: chain_sum")]
)
def test_an_unknown_family_is_named_with_the_nearest(name: str, hint: str):
    with pytest.raises(UserError, match=rf"data\.families\.{name}: .*{hint}".replace("?", "\\?")):
        load(params(families={name: 1}), 0)


def test_no_family_at_all():
    with pytest.raises(UserError, match=r"data\.families: is empty"):
        load(params(families={}), 0)


def test_a_mix_with_too_few_problems_says_how_many(monkeypatch: pytest.MonkeyPatch):
    few = Family({"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1})
    monkeypatch.setitem(FAMILIES, "products", few)
    with pytest.raises(
        UserError, match=r"only 100 distinct problems \('products' gives 100 of 205"
    ):
        load(params(families={"products": 1}, train_size=200), 0)
