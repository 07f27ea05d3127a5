"""Fallback against its definition: who falls back, how far, and by which weights."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import BOX, POSITIONS, family, growth_of, segment, softmax

from treepo.params import FallbackParams
from treepo.sampling import Growth
from treepo.sampling import fallback as fb
from treepo.scoring.answers import boxed_answer
from treepo.tree import Node, Tree


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
