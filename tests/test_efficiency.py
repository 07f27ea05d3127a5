"""Efficiency: measures, ratios and scaling curves against plain counting, and their tables."""

from __future__ import annotations

from itertools import combinations
from statistics import fmean, median

import pyarrow as pa
import pytest
from forests import forests
from hypothesis import given
from test_evaluation import evaluation

from treepo.efficiency import (
    MEASURES,
    Measurement,
    accuracies,
    costs,
    expected_tokens,
    scaling_points,
    summary,
)
from treepo.errors import UserError
from treepo.evaluation import summarize
from treepo.forest import Forest
from treepo.schemas.efficiency import (
    EFFICIENCY_SCHEMA,
    MEASUREMENTS_SCHEMA,
    check_efficiency,
    check_measurements,
)

MEASURED = Measurement(
    round=1,
    place=0,
    arm="tree",
    problems=2,
    trajectories=8,
    trajectory_tokens=400,
    sampled_tokens=300,
    prefill_tokens=50,
    context_tokens=200,
    forward_calls=60,
    peak_bytes=1000,
    wall_seconds=4.0,
    device_seconds=2.0,
    tokens_of_k=[100.0, 180.0],
)


def test_costs_by_hand() -> None:
    found = costs(MEASURED)
    assert found["trajectories_per_second"] == 2
    assert found["tokens_per_second"] == 100
    assert found["sampled_tokens_per_second"] == 75
    assert found["trajectories_per_device_second"] == 4
    assert found["tokens_saved"] == 0.25
    assert found["cache_hit_rate"] == 0.75


def test_every_measure_is_told() -> None:
    responses = evaluation({"p0": ["1", "2"], "p1": ["1", None]})
    found = {**costs(MEASURED), **accuracies(responses, 0, None)}
    assert list(found) == list(MEASURES)


@given(forest=forests())
def test_expected_tokens_against_all_subsets(forest: Forest) -> None:
    """The expectation over draws of k leaves, by looking at every one of them."""
    trees = forest.tree[forest.leaves]
    of_tree = [
        [set(path.tolist()) for path, at in zip(forest.paths, trees, strict=True) if at == tree]
        for tree in range(forest.trees)
    ]
    found = expected_tokens(forest)
    assert len(found) == min(map(len, of_tree))
    for k, expected in enumerate(found, 1):
        by_hand = sum(
            fmean(forest.lengths[list(set.union(*some))].sum() for some in combinations(paths, k))
            for paths in of_tree
        )
        assert expected == pytest.approx(by_hand)
    if len({len(paths) for paths in of_tree}) == 1:
        assert found[-1] == forest.sampled_tokens


def test_a_curve_ends_at_the_vote_of_all() -> None:
    responses = evaluation({"p0": ["1", "1", "2"], "p1": ["1", "3", None]})
    points = scaling_points([10.0, 18.0, 24.0], responses, seed=5)
    assert [(point.k, point.tokens) for point in points] == [(1, 10.0), (2, 18.0), (3, 24.0)]
    assert points[-1].accuracy == summarize(responses, 5)["maj@k"]
    # A single response votes for itself: the mean share of right ones, up to the 1,000 draws.
    assert points[0].accuracy == pytest.approx(summarize(responses, 5)["accuracy"], abs=0.05)


def test_ratios_are_taken_within_a_round() -> None:
    speeds = {"flat": [10.0, 2.0, 4.0], "tree": [15.0, 4.0, 5.0]}
    rounds = [
        {
            arm: {("tokens_per_second", None): values[r], ("accuracy", None): 0.5}
            for arm, values in speeds.items()
        }
        for r in range(3)
    ]
    rows = {(r.arm, r.measure): r for r in summary(rounds, {"flat": None, "tree": "flat"})}
    found = rows["tree", "tokens_per_second"]
    ratios = [b / a for a, b in zip(speeds["flat"], speeds["tree"], strict=True)]
    assert (found.median, found.low, found.high) == (5.0, 4.0, 15.0)
    assert (found.ratio, found.ratio_low, found.ratio_high) == (
        median(ratios),
        min(ratios),
        max(ratios),
    )
    assert found.ratio != median(speeds["tree"]) / median(speeds["flat"])
    assert rows["flat", "tokens_per_second"].ratio is None
    assert rows["tree", "accuracy"].ratio is None


def test_what_not_every_round_has_is_left_out() -> None:
    key, other = ("scaling_tokens", 1), ("scaling_tokens", 2)
    rounds = [{"a": {key: 1.0, other: 2.0}}, {"a": {key: 3.0}}]
    (row,) = summary(rounds, {"a": None})
    assert (row.k, row.rounds, row.median) == (1, 2, 2.0)


def test_no_quotient_by_nothing() -> None:
    rounds = [{"a": {("peak_bytes", None): 0.0}, "b": {("peak_bytes", None): 3.0}}]
    rows = summary(rounds, {"a": None, "b": "a"})
    assert [row.ratio for row in rows] == [None, None]


def test_tables_are_checked() -> None:
    good = pa.Table.from_pylist([vars(MEASURED)], schema=MEASUREMENTS_SCHEMA)
    assert check_measurements(good, "m.parquet").equals(good)
    bad = pa.Table.from_pylist(
        [{**vars(MEASURED), "wall_seconds": 0.0}], schema=MEASUREMENTS_SCHEMA
    )
    with pytest.raises(
        UserError, match=r"m\.parquet: column 'wall_seconds', row 0: must be above 0"
    ):
        check_measurements(bad, "m.parquet")
    rows = summary([{"a": {("accuracy", None): 0.5}}], {"a": None})
    table = pa.Table.from_pylist([vars(row) for row in rows], schema=EFFICIENCY_SCHEMA)
    assert check_efficiency(table, "e.parquet").num_rows == 1
    other = table.set_column(2, "measure", pa.array(["speed"]))
    with pytest.raises(UserError, match="is no measure"):
        check_efficiency(other, "e.parquet")
