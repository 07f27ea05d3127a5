"""The sampler's mechanism against scripted engines: growth, stops, restarts, splits."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripts import (
    BOX,
    Habits,
    decode,
    encode,
    grown,
    habits,
    judge,
    loops,
    sampling,
    segment,
)

from treepo.engines.scripted import ScriptedEngine
from treepo.forest import Forest
from treepo.params import BudgetParams, FallbackParams, RepetitionParams, SamplingParams
from treepo.sampling import Growth, Prompt, Request, grow_tree
from treepo.sampling import allocation as al
from treepo.sampling import branching as br
from treepo.sampling import fallback as fb
from treepo.sampling.stopping import finish_reason, repeats
from treepo.schemas import check_forest
from treepo.scoring.answers import boxed_answer
from treepo.seeds import derive
from treepo.tree import Node, Segment, Tree


def growth_of(tree: Tree, params: SamplingParams | None = None, seed: int = 0) -> Growth:
    """A growth that stands where `tree` does."""
    growth = Growth(tree, params or SamplingParams(), random.Random(seed), decode, judge)
    growth.finished = len(tree.leaves())
    growth.spent = sum(len(node.logprobs) for node in tree.nodes())
    return growth


def response_text(tree: Tree, node: Node) -> str:
    return decode(tree.response(node))


def keys(tree: Tree) -> list[int]:
    return [node.key for node in tree.nodes()]


def expected_finish(text: str, new: Segment, params: SamplingParams) -> str | None:
    """The rules of section 4, written down again."""
    boxed, ripe = boxed_answer(text) is not None, len(text) >= params.min_tokens
    rule = params.repetition
    loop = rule is not None and repeats_by_count(decode(new.tokens), rule)
    full = "max_depth" if len(text) == params.depth * params.segment_length else "max_tokens"
    holds = {
        "eos": new.ended and "eos",
        "answer": boxed and ripe and "answer",
        "answer_with_eos": new.ended and boxed and "answer",
        "repetition": loop and ripe and "repetition",
        "limits": len(text) >= params.token_limit and full,
    }
    return next((holds[name] for name in params.stops if holds[name]), None) or None


def repeats_by_count(text: str, params: RepetitionParams) -> bool:
    windows = {text[at : at + params.length] for at in range(len(text) - params.length + 1)}
    return any(text.count(window) >= params.count for window in windows)


@given(sampling(), habits, st.integers(0, 2**63))
@settings(max_examples=300)
def test_budget_width_limits_and_reasons(params: SamplingParams, habit: Habits, seed: int) -> None:
    tree, log = grown(params, habit.script, seed)
    check_width(tree, params)
    low, high = (min(bound, params.width) for bound in params.initial_range)
    assert log.counts[0] <= high
    assert log.counts[0] >= low or params.budget != BudgetParams()
    for node in tree.nodes():
        if node.key in log.segments:
            new = log.segments[node.key]
            assert node.finish == expected_finish(response_text(tree, node), new, params)
            assert new.tokens[-len(node.tokens) :] == node.tokens
            assert new.logprobs[-len(node.tokens) :] == node.logprobs
        first, end = node.start - tree.root.end, node.end - tree.root.end
        assert end <= params.token_limit
        if not node.forced and first >= 0:
            assert first // params.segment_length == (end - 1) // params.segment_length
    finish = {node.key: node.finish for node in tree.nodes()}
    ended = [all(finish[request.seed] for request in step) for step in log.steps]
    restarts = sum(len(step) for step, over in zip(log.steps[1:], ended, strict=False) if over)
    assert sum(node.restarted for node in tree.nodes()) == restarts
    seeds = [request.seed for step in log.steps for request in step]
    assert len(set(keys(tree))) == len(keys(tree))
    assert len(set(seeds) & set(keys(tree))) == len(seeds)


def check_width(tree: Tree, params: SamplingParams) -> None:
    """As many trajectories as asked for, and no token more than the budget."""
    width, budget = len(tree.leaves()), params.budget
    spent = sum(len(node.logprobs) for node in tree.nodes())
    assert width <= params.width
    if budget.total_tokens is not None:
        assert spent <= budget.total_tokens
    if params.fallback.position != "none":
        least = params.width if budget.total_tokens is None else budget.min_width
        assert width >= least
        assert width == params.width or budget.total_tokens - spent < params.token_limit


@given(sampling(), habits, st.integers(0, 2**63))
@settings(max_examples=60)
def test_same_inputs_same_tree_and_a_valid_forest(
    params: SamplingParams, habit: Habits, seed: int
) -> None:
    prompts = [Prompt("a", [5]), Prompt("b", [5, 6]), Prompt("c", [])]
    growers = [grow_tree(prompt, params, seed, decode, encode, judge) for prompt in prompts]
    order, trees = zip(*ScriptedEngine(habit.script).run(growers), strict=True)
    assert order == (0, 1, 2)
    again = [grown(params, habit.script, seed, prompt)[0] for prompt in prompts]
    assert [keys(tree) for tree in again] == [keys(tree) for tree in trees]
    forest = Forest.from_trees(trees)
    table = check_forest(forest.to_arrow(), "x")
    for same in (Forest.from_trees(again), Forest.from_arrow(table)):
        assert same.to_arrow().equals(table)
    flat = [tree.response(leaf) for tree in trees for leaf in tree.leaves()]
    assert [response.tolist() for response in forest.responses()] == flat
    leaves = [leaf for tree in trees for leaf in tree.leaves()]
    assert forest.trajectory_tokens == sum(len(n.logprobs) for leaf in leaves for n in leaf.path())
    assert forest.sampled_tokens == sum(len(n.logprobs) for tree in trees for n in tree.nodes())


@given(sampling(), habits, st.integers(0, 2**32), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_splits_keep_trajectories_and_invariants(
    params: SamplingParams, habit: Habits, seed: int, rng: random.Random
) -> None:
    tree, _ = grown(params, habit.script, seed)
    leaves = tree.leaves()

    def trajectories() -> list[Any]:
        logprobs = [[x for node in leaf.path()[1:] for x in node.logprobs] for leaf in leaves]
        return [(tree.response(leaf), leaf.finish, leaf.key) for leaf in leaves] + logprobs

    before = trajectories()
    for node in list(tree.nodes())[1:]:
        if len(node.tokens) > 1:
            upper = tree.split(node, at := rng.randrange(1, len(node.tokens)))
            assert (node.parent, upper.children) == (upper, [node])
            assert (len(upper.tokens), upper.end, upper.finish) == (at, node.start, None)
            assert upper.forced == node.forced
    assert tree.leaves() == leaves
    assert trajectories() == before
    assert len(set(keys(tree))) == len(keys(tree))
    check_forest(Forest.from_trees([tree]).to_arrow(), "x")


@pytest.mark.parametrize(
    ("width", "initial", "b", "counts"),
    [
        (16, 2, 2, [2, 4, 8, 16, 16, 16]),
        (16, 3, 4, [3, 12, 16, 16, 16, 16]),
        (16, 16, 2, [16] * 6),
        (1, 2, 2, [1] * 6),
        (5, 1, 3, [1, 3, 5, 5, 5, 5]),
    ],
)
def test_growth_without_early_stops(width: int, initial: int, b: int, counts: list[int]) -> None:
    shape = {"width": width, "depth": 6, "segment_length": 40}
    params = SamplingParams(**shape, branching=b, initial_branching=initial)
    tree, log = grown(params, Habits().script)
    assert log.counts == counts
    assert [leaf.finish for leaf in tree.leaves()] == ["max_depth"] * width
    assert max(node.depth for node in tree.nodes()) == 6


@pytest.mark.parametrize(
    ("ends", "counts"),
    [
        ("10 000 0000000", [2, 3, 7, 7]),  # 4 - 1 for the living one; then 8 - 1 over three
        ("10 110 00000", [2, 3, 5, 5]),  # of the three two end: 8 - 3 for the last one
        ("11 000000", [2, 6, 6, 6, 6]),  # all end: the 8 - 2 missing ones start together
    ],
)
def test_budget_of_ended_paths_goes_to_the_living(ends: str, counts: list[int]) -> None:
    flags = iter(ends.replace(" ", ""))
    back = FallbackParams(position="from_root")
    params = SamplingParams(width=8, depth=4, segment_length=4, fallback=back)
    tree, log = grown(params, lambda request: segment("abcd", ended=next(flags, "0") == "1"))
    assert log.counts == counts
    assert len(tree.leaves()) == 8


def test_even_allocation() -> None:
    tree = Tree("p", [], 0)
    for count in range(1, 9):
        for budget in range(count, 20):
            counts = al.allocate(growth_of(tree), [tree.root] * count, budget)
            assert sum(counts) == budget
            assert 1 <= min(counts) <= max(counts) <= min(counts) + 1
    growths = [growth_of(tree, seed=seed) for seed in range(50)]
    lucky = {tuple(al.allocate(growth, [tree.root] * 3, 4)) for growth in growths}
    assert lucky == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}


def test_random_initial_branching_covers_its_range() -> None:
    params = SamplingParams(width=6, initial_branching=(2, 8))
    root = Tree("p", [], 0)
    drawn = Counter(br.first_branches(growth_of(root, params, derive(i))) for i in range(700))
    assert sorted(drawn) == [2, 3, 4, 5, 6]
    assert drawn[6] > 2 * drawn[5]  # 7 and 8 are cut to the width
    params = SamplingParams(width=9, depth=1, segment_length=2, initial_branching=(2, 8))
    logs = [grown(params, Habits().script, seed)[1] for seed in range(40)]
    assert {log.counts[0] for log in logs} == set(range(2, 9))


def test_sequential_is_one_step_of_independent_paths() -> None:
    params = SamplingParams.sequential(width=5, max_tokens=30)
    tree, log = grown(params, Habits(eos=0.5, box=0.5).script)
    assert log.counts == [5]
    assert tree.root.children == tree.leaves()
    assert {(leaf.depth, leaf.start) for leaf in tree.leaves()} == {(1, 3)}
    assert len({response_text(tree, leaf) for leaf in tree.leaves()}) == 5


def test_a_path_from_inside_a_segment_first_fills_it_up() -> None:
    def script(request: Request) -> Segment:
        if request.node.parent is None:  # 8 tokens, the sixth is the least probable one
            return Segment(list(range(97, 105)), [-1.0] * 5 + [-9.0] + [-1.0] * 2, ended=True)
        return Segment([97] * request.max_tokens, [-1.0] * request.max_tokens)

    back = FallbackParams(position="min_probability_token")
    shape = {"width": 3, "depth": 3, "segment_length": 8, "initial_branching": 1}
    tree, log = grown(SamplingParams(**shape, repetition=None, fallback=back), script)
    assert [[r.max_tokens for r in step] for step in log.steps] == [[8], [3, 3], [8, 8], [8, 8]]
    (upper,) = tree.root.children
    assert (upper.tokens, upper.finish) == ([97, 98, 99, 100, 101], None)
    assert [child.tokens for child in upper.children] == [[102, 103, 104], [97] * 3, [97] * 3]
    assert [leaf.finish for leaf in tree.leaves()] == ["eos", "max_depth", "max_depth"]


def leaf_of(*texts: str, finish: Any = "eos") -> tuple[Tree, Node]:
    tree = Tree("p", [1, 2], 0)
    node = tree.root
    for key, text in enumerate(texts):
        node = tree.grow(node, segment(text), key)
    node.finish = finish
    return tree, node


def positions(tree: Tree, leaf: Node, params: SamplingParams) -> set[int]:
    """Where the policy starts, of many draws."""
    growth, pick = growth_of(tree, params), fb.POSITIONS.get(params.fallback.position)
    drawn = {pick(growth, leaf, fb.allowed(growth, leaf)) for _ in range(100)}
    assert None not in drawn
    return drawn


def test_fallback_positions() -> None:
    shape = {"width": 2, "depth": 4, "segment_length": 4}
    tree, leaf = leaf_of("abcd", "efgh", "ij")
    leaf.parent.logprobs = [-1.0, -7.0, -7.0, -2.0]
    for at in (2, 1):
        for name, expected in (
            ("random_segment", {0, 4, 8}),
            ("min_probability_token", {5}),
            ("from_root", {0}),
            ("misaligned", set(range(10))),
        ):
            params = SamplingParams(**shape, fallback=FallbackParams(position=name))
            assert positions(tree, leaf, params) == expected
        tree.split(leaf.parent, at)  # positions count tokens, not nodes
    whole, end = leaf_of("abcd", "efgh")
    assert positions(whole, end, SamplingParams(**shape)) == {0, 4}


def test_fallback_starts_on_answered_paths() -> None:
    back = FallbackParams(position="min_probability_token")
    cases = {("repetition", "eos", "answer"): {1, 2}, ("max_depth", "repetition"): {0, 1}}
    for finishes, chosen in cases.items():
        tree = Tree("p", [1, 2], 0)
        for key, finish in enumerate(finishes):
            tree.grow(tree.root, Segment([key] * 3, [-1.0, -2.0, -1.5]), key).finish = finish
        params = SamplingParams(width=50 + len(finishes), fallback=back)
        starts = fb.restart_nodes(growth_of(tree, params))
        assert len(starts) == 50
        assert {(node.tokens[0], len(node.tokens)) for node in starts} == {(i, 1) for i in chosen}


def test_locate_splits_only_inside_a_node() -> None:
    tree, leaf = leaf_of("abcd", "efgh")
    assert [fb.locate(tree, leaf, at) for at in (0, 4, 8)] == list(tree.nodes())
    node = fb.locate(tree, leaf, 6)
    assert fb.locate(tree, leaf, 6) is node
    assert response_text(tree, fb.locate(tree, leaf, 5)) == "abcde"
    assert [response_text(tree, n) for n in (node, leaf)] == ["abcdef", "abcdefgh"]
    with pytest.raises(ValueError, match="behind the leaf"):
        fb.locate(tree, leaf, 9)


def test_priority_of_the_reasons() -> None:
    tree, node = leaf_of(BOX * 3, finish=None)
    values = {"depth": 3, "segment_length": 9, "repetition": RepetitionParams(length=3, count=3)}

    def reason(*stops: str, ended: bool = False, **changes: Any) -> str | None:
        params = SamplingParams(**{**values, **changes, **({"stops": stops} if stops else {})})
        return finish_reason(growth_of(tree, params), node, segment(BOX * 3, ended))

    assert reason(ended=True) == "eos"
    assert reason() == "answer"
    assert reason("repetition", "answer", "eos", "limits", ended=True) == "repetition"
    assert reason("answer", "eos", "repetition", "limits", ended=True) == "answer"
    assert reason("answer_with_eos", "eos", "limits", ended=True) == "answer"
    assert reason("answer_with_eos", "eos", "limits", depth=4) is None
    assert reason("eos", "repetition", "limits") == "repetition"
    assert reason("eos", "limits", "repetition") == "max_depth"
    assert reason("eos", "limits", "repetition", depth=4) == "repetition"
    assert reason("eos", "limits", depth=4, max_tokens=27) == "max_tokens"
    assert reason(depth=4, min_tokens=28) is None
    assert reason(depth=4, min_tokens=27) == "answer"
    assert reason(depth=4, min_tokens=28, ended=True) == "eos"


def test_an_answer_spans_segments_a_loop_does_not() -> None:
    params = SamplingParams(repetition=RepetitionParams(length=2, count=3))
    tree, node = leaf_of("so \\bo", "xed{7", "} is it", finish=None)
    growth = growth_of(tree, params)
    assert finish_reason(growth, node.parent, segment("xed{7")) is None
    assert finish_reason(growth, node, segment("} is it")) == "answer"
    for text, reason in (("xyxy", None), ("xyxyxy", "repetition")):
        tree, node = leaf_of("xyxy", text, finish=None)
        assert finish_reason(growth_of(tree, params), node, segment(text)) == reason


pieces = st.lists(
    st.text("\\boxed{}7 ", max_size=9)
    | st.sampled_from(["\\bo", "xed{", "\\boxed {", "7}", "}", "\\\\", "\\boxed{7}", "{a}"]),
    min_size=1,
    max_size=6,
)


@given(pieces.filter(all))
@settings(max_examples=400)
def test_answers_are_found_segment_by_segment(texts: list[str]) -> None:
    tree, leaf = leaf_of(*texts)
    for in_order in (True, False):
        growth = growth_of(tree)
        for node in leaf.path()[1:] if in_order else leaf.path()[:0:-1]:
            whole = boxed_answer(response_text(tree, node)) is not None
            assert growth.answered(node) == whole
    text, end = "".join(texts), growth_of(tree).answer_end(leaf)
    ends = [at for at in range(len(text) + 1) if boxed_answer(text[:at]) is not None]
    assert end == (ends[0] if ends else None)


@given(st.text("ab", max_size=60) | st.text("abc", max_size=60), loops)
@settings(max_examples=300)
@example("abcdefghijklmnopqrstuvwxyz012345" * 8, RepetitionParams())
@example(("abcdefghijklmnopqrstuvwxyz012345" * 8)[1:], RepetitionParams())
def test_repeats_counts_like_str_count(text: str, params: RepetitionParams) -> None:
    assert repeats(text, params) == repeats_by_count(text, params)


def test_misuse_of_a_tree_is_refused() -> None:
    tree, leaf = leaf_of("abc")
    for bad in (Segment([], []), Segment([1, 2], [-1.0]), Segment([1], [-1.0, -1.0])):
        with pytest.raises(ValueError, match="at least one token"):
            tree.grow(tree.root, bad, 9)
    with pytest.raises(ValueError, match="finished"):
        tree.grow(leaf, segment("d"), 9)
    for node, at in ((leaf, -1), (leaf, 0), (leaf, 3), (leaf, 4), (tree.root, 1)):
        with pytest.raises(ValueError, match=f"cannot split .* at {at}"):
            tree.split(node, at)
    assert len(keys(tree)) == 2


def test_the_seed_and_the_prompt_name_decide() -> None:
    params = SamplingParams(width=4, depth=2, segment_length=8)
    names = ((0, "p"), (1, "p"), (0, "q"))
    trees = [grown(params, Habits().script, seed, Prompt(name, [1]))[0] for seed, name in names]
    assert len({response_text(tree, leaf) for tree in trees for leaf in tree.leaves()}) == 12


@given(st.text("abé€😀", min_size=1, max_size=5), st.integers(0, 40), st.integers(2, 9))
@settings(max_examples=200)
def test_loops_of_any_characters_are_found(unit: str, gap: int, count: int) -> None:
    """Occurrences at odd distances, each after other text of its own."""
    loop = (unit * 32)[:32]
    text = "".join(f"{loop}{'-' * (gap * at % 7)}{at * 'x'}" for at in range(count))
    params = RepetitionParams(length=32, count=count)
    assert repeats(text, params)
    assert repeats(text, params) == repeats_by_count(text, params)
