"""Each policy against its definition: allocation, budgets, fallback, values, forced answers."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import BOX, POSITIONS, Habits, decode, encode, grown, habits, judge, sampling, segment

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
from treepo.sampling import Growth, Prompt, Request, grow_tree
from treepo.sampling import allocation as al
from treepo.sampling import fallback as fb
from treepo.schemas import check_forest
from treepo.scoring.answers import boxed_answer
from treepo.tree import Node, Segment, Tree


def growth_of(tree: Tree, judge: Any = judge, **params: Any) -> Growth:
    """A growth that stands where `tree` does."""
    growth = Growth(tree, SamplingParams(**params), random.Random(0), decode, judge)
    growth.finished = len(tree.leaves())
    return growth


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


def softmax(*scores: float) -> list[float]:
    return [math.exp(score) / sum(map(math.exp, scores)) for score in scores]


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


def family(*ends: tuple[str, str, float]) -> tuple[Tree, list[Node]]:
    """Leaves below the root: (text, finish, logprob of each token)."""
    tree = Tree("p", [1], 0)
    for key, (text, finish, logprob) in enumerate(ends):
        leaf = tree.grow(tree.root, Segment(encode(text), [logprob] * len(text)), key)
        leaf.finish = finish  # pyright: ignore[reportAttributeAccessIssue]
    return tree, tree.leaves()


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("answer_or_eos", [1, 1, 0, 0, 0]),
        ("finished_first", [5, 4, 3, 2, 1]),
        ("finished_first_strict", [1, 0, 0, 0, 0]),
        ("random", [1] * 5),
        ("longer_first", [2, 6, 4, 4, 4]),
        ("answered_longer_than", [0, 1, 0, 0, 0]),
        ("high_value", [1, math.exp(-1), math.exp(-1), math.exp(-1), math.exp(-1)]),
        ("low_value", [math.exp(-1), 1, 1, 1, 1]),
    ],
)
def test_candidates(name: str, weights: list[float]) -> None:
    ends = ["answer", "eos", "max_depth", "max_tokens", "repetition"]
    texts = ["ok", "bbbbbb", "cccc", "dddd", "eeee"]
    tree, leaves = family(*((t, e, -1.0) for t, e in zip(texts, ends, strict=True)))
    fallback = FallbackParams(candidates=name, longer_than=3)
    growth = growth_of(tree, lambda texts: [float(t == "ok") for t in texts], fallback=fallback)
    assert fb.CANDIDATES.get(name)(growth, leaves) == pytest.approx(weights)


def test_candidates_that_nobody_meets_widen() -> None:
    tree, leaves = family(("aa", "repetition", -1.0), ("bb", "max_depth", -1.0))
    growth = growth_of(tree, fallback=FallbackParams(longer_than=3))
    for name in ("answer_or_eos", "answered_longer_than"):
        assert fb.CANDIDATES.get(name)(growth, leaves) == [1.0, 1.0]


def drawn(name: str, tree: Tree, leaf: Node, draws: int = 2000, **changes: Any) -> Counter[Any]:
    fallback = FallbackParams(position=name, **changes)
    growth = growth_of(tree, depth=4, segment_length=4, fallback=fallback)
    pick = fb.POSITIONS.get(name)
    return Counter(pick(growth, leaf, fb.allowed(growth, leaf)) for _ in range(draws))


def path_of(*texts: str) -> tuple[Tree, Node]:
    tree = Tree("p", [1], 0)
    node = tree.root
    for key, text in enumerate(texts):
        node = tree.grow(node, segment(text), key)
    node.finish = "eos"
    return tree, node


def test_a_window_bounds_how_far_back_a_path_falls() -> None:
    tree, leaf = path_of("abcd", "efgh", "ijkl", "mn")  # 14 tokens, segments of 4
    assert set(drawn("random_segment", tree, leaf)) == {0, 4, 8, 12}
    assert set(drawn("random_segment", tree, leaf, window=2)) == {8, 12}
    assert set(drawn("misaligned", tree, leaf, window=1)) == {10, 11, 12, 13}
    leaf.parent.parent.logprobs = [-9.0] * 4
    leaf.logprobs = [-1.0, -2.0]
    assert set(drawn("min_probability_token", tree, leaf)) == {4}
    assert set(drawn("min_probability_token", tree, leaf, window=1)) == {13}


def test_blocks_are_drawn_by_a_softmax_of_their_mean() -> None:
    tree, leaf = path_of("abcd", "efgh")
    leaf.parent.logprobs, leaf.logprobs = [-1.0, -1.0, -3.0, -3.0], [-1.0, -3.0, -2.0, -2.0]
    for name, sign in (("low_probability_block", -1), ("high_probability_block", 1)):
        counts = drawn(name, tree, leaf, draws=6000, block=2)
        wanted = softmax(*(sign * mean for mean in (-1.0, -3.0, -2.0, -2.0)))
        assert sorted(counts) == [0, 2, 4, 6]
        for at, share in zip((0, 2, 4, 6), wanted, strict=True):
            assert counts[at] / 6000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("name", [n for n in POSITIONS if n != "none"])
@given(st.integers(0, 12), st.integers(1, 4), st.integers(1, 5))
@settings(max_examples=25)
def test_no_path_starts_behind_a_complete_answer(
    name: str, before: int, window: int, block: int
) -> None:
    text = "a" * before + BOX + "b" * 9
    tree, leaf = path_of(*(text[at : at + 4] for at in range(0, len(text), 4)))
    windows = {} if name == "from_root" else {"window": window}
    for at in drawn(name, tree, leaf, draws=20, block=block, **windows):
        assert 0 <= at < before + len(BOX)
        assert boxed_answer(text[:at]) is None


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


def test_forks_are_drawn_by_value() -> None:
    tree = Tree("p", [1], 0)
    good, bad = (tree.grow(tree.root, segment(text * 4), key) for key, text in enumerate("gb"))
    leaves = [tree.grow(node, segment("xx"), 9) for node in (good, bad)]
    for leaf in leaves:
        leaf.finish = "eos"
    fallback = FallbackParams(position="high_value", temperature=0.01)
    growth = growth_of(tree, lambda t: [float("g" in x) for x in t], fallback=fallback)
    high, low = fb.POSITIONS.get("high_value"), fb.POSITIONS.get("low_value")
    spans = [fb.allowed(growth, leaf) for leaf in leaves]
    assert {high(growth, leaves[0], spans[0]) for _ in range(50)} == {4}
    assert {low(growth, leaves[0], spans[0]) for _ in range(50)} == {0}
    assert {high(growth, leaves[1], spans[1]) for _ in range(50)} == {0}


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
        ({"budget": {"min_width": 17}}, "sampling.budget.min_width 17 exceeds sampling.width 16"),
        (
            {"depth": 2, "segment_length": 5, "budget": {"total_tokens": 29, "min_width": 3}},
            "total_tokens 29 is not enough .* must be at least 30",
        ),
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


@al.ALLOCATIONS.register("test: nothing")
def nothing(growth: Growth, living: Any) -> list[float]:
    return [0.0] * len(living)


def test_a_policy_that_breaks_its_contract_is_named() -> None:
    tree, leaves = family(("aaaa", "eos", -1.0))
    growth = growth_of(tree, fallback=FallbackParams(position="unheard of"))
    with pytest.raises(UserError, match=r"fallback.position: unknown 'unheard of'"):
        fb.restart_nodes(growth)
    growth = growth_of(tree, fallback=FallbackParams(position="test: behind the leaf"))
    with pytest.raises(ValueError, match="gave position 4, which is not in range"):
        fb.restart_nodes(growth)
    growth = growth_of(tree, allocation=AllocationParams(policy="test: nothing"))
    with pytest.raises(ValueError, match=r"'test: nothing' gave the weights \[0.0\]"):
        al.allocate(growth, leaves, 2)


def test_branches_are_allotted_by_the_policys_weights() -> None:
    tree, living = fork([-3.0, -2.0, -1.0, -2.0], [-0.25, -0.75, -0.5, -0.5])
    sharp = AllocationParams(policy="high_probability", statistic="path_sum")
    assert al.allocate(growth_of(tree, allocation=sharp), living, 10) == [1, 9]


def test_restarts_are_drawn_by_the_policys_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    tree, (short, long) = family(("aa", "eos", -1.0), ("bbbbbb", "eos", -1.0))
    back = FallbackParams(candidates="longer_first", position="misaligned")
    drawn: Counter[Node] = Counter()

    def counted(_: Growth, leaf: Node, __: Any) -> int:
        drawn[leaf] += 1
        return 0

    monkeypatch.setattr(fb.POSITIONS, "get", lambda _: counted)
    fb.restart_nodes(growth_of(tree, width=4002, fallback=back))
    assert drawn[short] + drawn[long] == 4000
    assert drawn[long] / 4000 == pytest.approx(6 / 8, abs=0.04)


def test_trees_of_other_prompts_make_other_draws() -> None:
    wide = SamplingParams(width=16, depth=2, segment_length=4, initial_branching=(2, 9))
    counts = [
        len(next(grow_tree(Prompt(f"p{number}", [1, 2]), wide, 0, decode))) for number in range(20)
    ]
    assert len(set(counts)) > 3
