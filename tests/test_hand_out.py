"""Who grows which tree: every tree once, the fast get more, the lost come back."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treepo.cluster.hand_out import SPARE, HandOut, longest_first

counts = st.integers(0, 40)
numbers = st.integers(1, 6)


@given(counts, numbers, st.integers(0, 2**32))
def test_every_tree_is_finished_once_whatever_happens(trees: int, replicas: int, seed: int) -> None:
    rng = random.Random(seed)
    hand_out = HandOut(range(trees), range(replicas))
    held: dict[int, list[int]] = {replica: [] for replica in range(replicas)}
    finished: Counter[int] = Counter()
    losses = 5
    while hand_out.unfinished:
        replica = rng.randrange(replicas)
        event = rng.choice(["ask", "finish", "lose"])
        if event == "ask":
            tree = hand_out.take(replica)
            waiting = hand_out.unfinished - sum(map(len, held.values()))
            if tree is None:
                assert held[replica] or not waiting
            else:
                held[replica].append(tree)
                assert len(held[replica]) <= -(-hand_out.unfinished // replicas)
        elif event == "finish" and held[replica]:
            tree = held[replica].pop()
            finished[tree] += 1
            hand_out.finish(replica, tree)
        elif event == "lose" and losses:
            losses -= 1
            hand_out.lose(replica)
            held[replica] = []
        assert hand_out.holds_nothing(replica) == (not held[replica])
    assert sorted(finished.elements()) == list(range(trees))


def test_a_lost_replicas_trees_come_first_and_in_their_order() -> None:
    hand_out = HandOut([0, 2, 1, 3, 4, 5, 6, 7], range(2))
    assert [hand_out.take(0) for _ in range(5)] == [0, 2, 1, 3, None]
    hand_out.lose(0)
    assert [hand_out.take(1) for _ in range(5)] == [0, 2, 1, 3, None]
    hand_out.finish(1, 2)  # seven are left: four for each
    assert [hand_out.take(1), hand_out.take(1), hand_out.take(0)] == [4, None, 5]


def test_a_replica_may_hold_less_than_its_part() -> None:
    hand_out = HandOut(range(20), range(2), hold=0.25)
    assert [hand_out.take(0) for _ in range(4)] == [0, 1, 2, None]
    for tree in range(3):
        hand_out.finish(0, tree)
    assert [hand_out.take(0) for _ in range(4)] == [3, 4, 5, None]
    finished = 3
    while (tree := hand_out.take(1)) is not None:
        hand_out.finish(1, tree)
        finished += 1
    assert finished == 17  # all but what the other one sits on


def seconds(lengths: Sequence[float], replicas: int, ahead: bool = True) -> float:
    """To the end, where each replica grows one tree at a time, and may have the next one ahead."""
    hand_out = HandOut(range(len(lengths)), range(replicas))
    free = [(0.0, replica) for replica in range(replicas)]
    following: dict[int, int | None] = dict.fromkeys(range(replicas))
    held: dict[int, int] = {}
    now = 0.0
    while free:
        now, replica = heapq.heappop(free)
        if replica in held:
            hand_out.finish(replica, held.pop(replica))
        tree = following[replica]
        if tree is None:
            tree = hand_out.take(replica)
        if tree is not None:
            held[replica] = tree
            following[replica] = hand_out.take(replica, ahead=True) if ahead else None
            heapq.heappush(free, (now + lengths[tree], replica))
    assert hand_out.unfinished == 0
    return now


@pytest.mark.parametrize(
    ("lengths", "replicas", "expected"),
    [([100, 60, 60], 2, 120), ([100, 10, 10], 2, 100), ([50, 40, 30, 20, 10], 4, 50)],
)
def test_the_last_trees_wait_for_who_is_free(
    lengths: list[int], replicas: int, expected: float
) -> None:
    assert seconds(lengths, replicas) == expected


def test_trees_are_had_ahead_while_many_wait() -> None:
    hand_out = HandOut(range(4 + 2 * SPARE), range(2))
    assert hand_out.take(0) == 0
    assert [hand_out.take(0, ahead=True) for _ in range(3)] == [1, 2, 3]
    assert hand_out.take(0, ahead=True) is None
    assert hand_out.take(0) == 4
    assert hand_out.take(1, ahead=True) == 5  # it holds nothing
    assert hand_out.take(1, ahead=True) is None


@pytest.mark.parametrize("count", [24, 64])
def test_trees_ahead_hardly_make_the_end_later(count: int) -> None:
    with_them, without = 0.0, 0.0
    for seed in range(100):
        rng = random.Random(seed)
        lengths = sorted((rng.lognormvariate(0, 0.6) for _ in range(count)), reverse=True)
        with_them += seconds(lengths, 8)
        without += seconds(lengths, 8, ahead=False)
    assert with_them < 1.02 * without


def test_long_trees_come_first_and_before_them_those_of_which_nothing_is_known() -> None:
    assert longest_first([3, math.inf, 7, 3, math.inf]) == [1, 4, 2, 0, 3]
