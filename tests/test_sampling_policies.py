"""Policies against their definitions: allocation, budgets, values, forced answers."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import (
    BOX,
    Habits,
    decode,
    encode,
    family,
    grown,
    growth_of,
    habits,
    judge,
    sampling,
    segment,
    softmax,
)

from treepo.engines.scripted import ScriptedEngine
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.params import (
    AllocationParams,
    BudgetParams,
    FallbackParams,
    ForcedAnswerParams,
    SamplingParams,
)
from treepo.sampling import Growth, Prompt, Request, grow_tree, stopping
from treepo.sampling import allocation as al
from treepo.sampling import branching as br
from treepo.sampling import fallback as fb
from treepo.schemas import check_forest
from treepo.tree import Node, Segment, Tree


def fork(*logprobs: list[float]) -> tuple[Tree, list[Node]]:
    """A root with one living path a list of logprobs, each of two segments."""
    tree = Tree("p", [1], 0)
    nodes: list[Node] = []
    for key, values in enumerate(logprobs):
        half = len(values) // 2
        upper = tree.grow(tree.root, Segment([65] * half, values[:half]), key)
        nodes.append(tree.grow(upper, Segment([66] * (len(values) - half), values[half:]), key))
    return tree, nodes


def shares(policy: str, statistic: str, temperature: float, *logprobs: list[float]) -> list[float]:
    tree, living = fork(*logprobs)
    params = AllocationParams(policy=policy, statistic=statistic, temperature=temperature)
    weights = al.ALLOCATIONS.get(policy)(growth_of(tree, allocation=params), living)
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize(
    ("statistic", "first", "second"),
    [("last_segment", -1.5, -0.5), ("path_mean", -2.0, -0.5), ("path_sum", -8.0, -2.0)],
)
def test_shares_are_a_softmax_of_the_statistic(statistic: str, first: float, second: float) -> None:
    paths = [-3.0, -2.0, -1.0, -2.0], [-0.25, -0.75, -0.5, -0.5]
    for policy, sign in (("high_probability", 1), ("low_probability", -1)):
        for temperature in (0.5, 2.0):
            wanted = softmax(sign * first / temperature, sign * second / temperature)
            assert shares(policy, statistic, temperature, *paths) == pytest.approx(wanted)


def test_entropy_shares_are_in_proportion_to_mean_surprisal() -> None:
    paths = [0.0, 0.0, -3.0, -1.0], [0.0, 0.0, -1.0, -0.5], [-9.0, -9.0, 0.0, 0.0]
    assert shares("entropy", "path_sum", 2.0, *paths) == pytest.approx([2 / 2.75, 0.75 / 2.75, 0])
    assert shares("entropy", "path_sum", 2.0, [0.0] * 2, [0.0] * 2) == [0.5, 0.5]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=9), st.integers(0, 40))
@settings(max_examples=200)
def test_apportion_by_largest_remainder(weights: list[float], extra: int) -> None:
    weights[0] += 0.1
    counts = al.apportion(growth_of(Tree("p", [], 0)), weights, len(weights) + extra)
    assert sum(counts) == len(weights) + extra
    for count, weight in zip(counts, weights, strict=True):
        quota = weight / math.fsum(weights) * extra
        assert math.floor(quota - 1e-6) <= count - 1 <= math.ceil(quota + 1e-6)
    ranked = sorted(zip(weights, counts, strict=True))
    assert [count for _, count in ranked] == sorted(counts)


def test_a_scheduled_temperature_is_linear_over_its_iterations() -> None:
    scheduled = AllocationParams(temperature=(5.0, 1.0), anneal_iterations=5)
    params = SamplingParams(allocation=scheduled)
    fixed = [params.at(k).allocation.temperature for k in (1, 2, 5, 9)]
    assert fixed == [5.0, 4.0, 1.0, 1.0]
    assert SamplingParams().at(7) == SamplingParams()


def test_values_are_mean_rewards_of_the_nearest_finished_paths() -> None:
    tree = Tree("p", [1], 0)
    left, right = (tree.grow(tree.root, segment(text), key) for key, text in enumerate("lr"))
    asked: list[str] = []

    def reward(texts: list[str]) -> list[float]:
        asked.extend(texts)
        return [float(text.endswith("1")) for text in texts]

    growth = growth_of(tree, reward)
    assert growth.value(left) == 0.0
    for key, text in enumerate(("1", "0", "1")):
        tree.grow(left, segment(text), 10 + key).finish = "eos"
    tree.grow(right, segment("0"), 20).finish = "eos"
    living = tree.grow(right, segment("x"), 21)
    assert [growth.value(node) for node in (left, right, living)] == [2 / 3, 0, 0]
    assert growth.value(tree.root) == 0.5
    assert sorted(asked) == ["l0", "l1", "l1", "r0"]  # each response is judged once
    with pytest.raises(UserError, match="policy by value needs the rewards"):
        growth_of(tree, None).value(left)


def test_random_growth_stays_in_its_range() -> None:
    budget = BudgetParams(control="random_range", growth_range=(1, 3))
    shape = {"width": 60, "depth": 5, "segment_length": 3, "initial_branching": 2}
    params = SamplingParams(**shape, budget=budget)
    seen: set[int] = set()
    for seed in range(40):
        counts = grown(params, Habits().script, seed)[1].counts
        for before, after in pairwise(counts[:5]):
            assert after == 60 or after % before == 0
            seen |= {after // before} if after < 60 else set()
    assert seen == {1, 2, 3}


def test_a_step_budget_is_filled_and_never_exceeded() -> None:
    budget = BudgetParams(control="step_tokens", step_tokens=23)
    shape = {"width": 12, "depth": 4, "segment_length": 4, "initial_branching": 2}
    tree, log = grown(SamplingParams(**shape, budget=budget), Habits().script)
    assert log.counts[:5] == [2, 5, 5, 5, 5]  # four steps, then five of the missing seven start
    assert max(log.counts) == 5
    assert len(tree.leaves()) == 12


def test_a_token_budget_ends_a_tree_between_its_widths() -> None:
    budget = BudgetParams(total_tokens=40, min_width=2)
    shape = {"width": 16, "depth": 4, "segment_length": 4}
    widths: Counter[int] = Counter()
    for seed in range(40):
        tree, _ = grown(SamplingParams(**shape, budget=budget), Habits(eos=0.2).script, seed)
        spent = sum(len(node.logprobs) for node in tree.nodes())
        assert 40 - 16 < spent <= 40
        widths[len(tree.leaves())] += 1
    assert min(widths) >= 2
    assert len(widths) > 1


FORCED = ForcedAnswerParams(remaining=6, text="=>")


def test_an_answer_is_forced_when_tokens_run_out() -> None:
    shape = {"width": 2, "depth": 4, "segment_length": 4, "max_tokens": 13}
    tree, log = grown(SamplingParams(**shape, forced_answer=FORCED), Habits().script)
    rooms = [[request.max_tokens for request in step] for step in log.steps]
    assert rooms == [[4, 4], [3, 3], [3, 3], [1, 1]]  # 13 - 6 = 7, then 2 put in, then the grid
    for leaf in tree.leaves():
        kinds = [(len(node.tokens), len(node.logprobs), node.forced) for node in leaf.path()[1:]]
        assert kinds == [(4, 4, False), (3, 3, False), (2, 0, True), (3, 3, False), (1, 1, False)]
        assert decode(leaf.path()[3].tokens) == "=>"
    forest = Forest.from_trees([tree])
    table = check_forest(forest.to_arrow(), "x")
    assert table["forced"].to_pylist() == [node.forced for node in tree.nodes()]
    assert Forest.from_arrow(table).to_arrow().equals(table)
    assert (forest.sampled_tokens, forest.trajectory_tokens) == (22, 22)


def test_an_answered_path_is_not_forced() -> None:
    def script(request: Request) -> Segment:
        room = request.max_tokens
        return segment((BOX + "z" * 30)[:room] if request.node.parent is None else "y" * room)

    shape = {"width": 1, "initial_branching": 1, "depth": 2, "segment_length": 10}
    stops = {"stops": ("eos", "limits"), "forced_answer": FORCED}
    tree, _ = grown(SamplingParams(**shape, **stops), script)
    assert not any(node.forced for node in tree.nodes())
    tree, _ = grown(SamplingParams(**shape, **stops), Habits().script)
    assert sum(node.forced for node in tree.nodes()) == 1


@given(sampling(), habits, st.integers(0, 2**63))
@settings(max_examples=80)
def test_forced_nodes_are_whole_and_once_on_a_path(
    params: SamplingParams, habit: Habits, seed: int
) -> None:
    tree, _ = grown(params, habit.script, seed)
    for node in tree.nodes():
        forced = [part for part in node.path() if part.forced]
        assert len(forced) <= 1
        assert all((decode(part.tokens), part.logprobs) == ("=>", []) for part in forced)
        assert sum(child.forced for child in node.children) <= 1
        assert not node.forced or (node.finish is None and node.children)


@given(sampling(), habits, st.integers(0, 2**32), st.integers(0, 3))
@settings(max_examples=60)
def test_a_tree_does_not_depend_on_its_neighbours(
    params: SamplingParams, habit: Habits, seed: int, place: int
) -> None:
    prompts = [Prompt(name, [5]) for name in "abcd"]
    growers = [grow_tree(prompt, params, seed, decode, encode, judge) for prompt in prompts]
    trees = dict(ScriptedEngine(habit.script).run(growers))
    alone = grown(params, habit.script, seed, prompts[place])[0]
    both = [Forest.from_trees([tree]).to_arrow() for tree in (alone, trees[place])]
    assert both[0].equals(both[1])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"segment_length": 9, "max_tokens": 8}, "segment_length 9 is longer than sampling.max"),
        ({"budget": {"step_tokens": 511}}, "segment_length 512 is longer than sampling.budget.st"),
        (
            {"budget": {"min_width": 17, "total_tokens": 17 * 7168}},
            "sampling.budget.min_width 17 exceeds sampling.width 16",
        ),
        (
            {"depth": 2, "segment_length": 5, "budget": {"total_tokens": 29, "min_width": 3}},
            "total_tokens 29 is not enough .* must be at least 30",
        ),
        ({"budget": {"min_width": 2}}, "min_width needs sampling.budget.total_tokens"),
        ({"width": 4, "initial_branching": 5}, "initial_branching 5 exceeds sampling.width 4"),
        ({"width": 4, "initial_branching": (5, 8)}, "initial_branching 5 exceeds sampling.width 4"),
        ({"budget": {"growth_range": [3, 2]}}, r"growth_range must be \[m, n\] with m <= n"),
        ({"allocation": {"temperature": [5, 1]}}, "anneal_iterations and a temperature of"),
        ({"allocation": {"anneal_iterations": 3}}, "anneal_iterations and a temperature of"),
        ({"depth": 1, "forced_answer": {"remaining": 512}}, "remaining must be less than .* 512"),
        ({"depth": 1, "min_tokens": 512}, "min_tokens must be less than the longest response"),
        ({"depth": 1, "fallback": {"longer_than": 512}}, "longer_than must be less than"),
        ({"fallback": {"window": 1, "position": "from_root"}}, "window contradicts .* from_root"),
        ({"fallback": {"window": 1, "position": "none"}}, "window contradicts .* none"),
        ({"stops": ["limits"]}, "stops must hold 'eos'"),
        ({"stops": ["eos"]}, "stops must hold 'limits'"),
        ({"stops": ["eos", "limits", "eos"]}, "names a stop twice"),
        ({"stops": ["answer", "answer_with_eos", "eos", "limits"]}, "name one of them"),
        ({"stops": ["eos", "answer_with_eos", "limits"]}, "must stand before 'eos'"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SamplingParams(**changes)


@pytest.mark.parametrize("text", ["", "123456"])
def test_a_forced_text_must_leave_room_for_an_answer(text: str) -> None:
    forced = ForcedAnswerParams(remaining=6, text=text)
    grower = grow_tree(Prompt("p", [1]), SamplingParams(forced_answer=forced), 0, decode, encode)
    with pytest.raises(UserError, match=r"forced_answer.text has .* fewer than .* 6"):
        next(grower)


@fb.POSITIONS.register("test: behind the leaf")
def behind_the_leaf(growth: Growth, leaf: Node, span: range) -> int:
    return growth.sampled(leaf)


@fb.CANDIDATES.register("test: nothing")
@al.ALLOCATIONS.register("test: nothing")
def nothing(growth: Growth, living: Any) -> list[float]:
    return [0.0] * len(living)


@fb.CANDIDATES.register("test: negative")
def negative(growth: Growth, leaves: Any) -> list[float]:
    return [-1.0, *(2.0 for _ in leaves[1:])]


@al.ALLOCATIONS.register("test: no weights")
def no_weights(growth: Growth, living: Any) -> Any:
    return None


@al.STATISTICS.register("test: by zero")
def by_zero(growth: Growth, node: Node) -> float:
    return 1 / (len(growth.tree.root.tokens) * 0)


@br.CONTROLS.register("test: by zero")
def no_paths(growth: Growth) -> int:
    return 1 // 0


@fb.POSITIONS.register("test: by zero")
def nowhere(growth: Growth, leaf: Node, span: range) -> int:
    return span.start // 0


@stopping.STOPS.register("test: by zero")
def no_stop(growth: Growth, node: Node, segment: Segment) -> None:
    raise ZeroDivisionError("division by zero\nin two lines")


@pytest.mark.parametrize(
    ("params", "key"),
    [
        (
            {"allocation": {"policy": "low_probability", "statistic": "test: by zero"}},
            "sampling.allocation.statistic",
        ),
        ({"budget": {"control": "test: by zero"}}, "sampling.budget.control"),
        ({"stops": ["eos", "test: by zero", "limits"]}, "sampling.stops"),
        ({"fallback": {"position": "test: by zero"}}, "sampling.fallback.position"),
    ],
)
def test_a_policy_that_fails_is_named(params: dict[str, Any], key: str) -> None:
    """One that falls back ends each path at its first segment, the others none of them."""
    shape = SamplingParams(width=4, depth=2, segment_length=4, **params)
    ended = key == "sampling.fallback.position"
    with pytest.raises(UserError, match="division") as caught:
        grown(shape, lambda request: segment("abcd", ended=ended and request.node.parent is None))
    text = str(caught.value)
    assert text.startswith(f"{key}: 'test: by zero' failed at {__file__}:")
    assert "\n" not in text
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_policy_that_breaks_its_contract_is_named() -> None:
    tree, leaves = family(("aaaa", "eos", -1.0))
    growth = growth_of(tree, fallback=FallbackParams(position="unheard of"))
    with pytest.raises(UserError, match=r"fallback.position: unknown 'unheard of'"):
        fb.restart_nodes(growth)
    growth = growth_of(tree, fallback=FallbackParams(position="test: behind the leaf"))
    with pytest.raises(UserError, match=r"'test: behind the leaf' gave position 4, .* range"):
        fb.restart_nodes(growth)
    for name, weights in {"nothing": r"\[0.0\]", "no weights": "None"}.items():
        growth = growth_of(tree, allocation=AllocationParams(policy=f"test: {name}"))
        with pytest.raises(UserError, match=rf"'test: {name}' gave the weights {weights}; "):
            al.allocate(growth, leaves, 2)
    for name in ("nothing", "negative"):
        growth = growth_of(tree, fallback=FallbackParams(candidates=f"test: {name}"))
        with pytest.raises(UserError, match=rf"fallback.candidates: 'test: {name}' gave the wei"):
            fb.restart_nodes(growth)


def test_branches_are_allotted_by_the_policys_weights() -> None:
    tree, living = fork([-3.0, -2.0, -1.0, -2.0], [-0.25, -0.75, -0.5, -0.5])
    sharp = AllocationParams(policy="high_probability", statistic="path_sum")
    assert al.allocate(growth_of(tree, allocation=sharp), living, 10) == [1, 9]


def test_trees_of_other_prompts_make_other_draws() -> None:
    wide = SamplingParams(width=16, depth=2, segment_length=4, initial_branching=(2, 9))
    counts = [
        len(next(grow_tree(Prompt(f"p{number}", [1, 2]), wide, 0, decode))) for number in range(20)
    ]
    assert len(set(counts)) > 3
