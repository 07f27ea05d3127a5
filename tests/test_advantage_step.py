"""Advantages from files, as `treepo advantage` makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from forests import large_forest, scores_table

from tasks.advantage import estimate
from treepo.advantages import ESTIMATORS, compute
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.loading import load_section
from treepo.params import AdvantageParams
from treepo.schemas import check_advantages, check_forest
from treepo.storage import read_table, write_table
from treepo.tree import Segment, Tree

REWARDS = np.array([0.1, 0.9, 0.4, 0.7, 0.7, 0.2])


def two_trees() -> Forest:
    """Each a root with a leaf and a fork of two."""
    grown: list[Tree] = []
    for index in range(2):
        tree = Tree(f"p{index}", [1], seed=0)
        tree.grow(tree.root, Segment([2, 3], [-1.0, -1.0]), 0).finish = "eos"
        inner = tree.grow(tree.root, Segment([4], [-1.0]), 1)
        for key in range(2):
            tree.grow(inner, Segment([5], [-1.0]), key).finish = "eos"
        grown.append(tree)
    return Forest.from_trees(grown)


def written(folder: Path, forest: Forest, scores: pa.Table) -> tuple[Path, Path, Path]:
    files = tuple(folder / f"{name}.parquet" for name in ("forest", "scores", "advantages"))
    write_table(check_forest(forest.to_arrow(), "forest"), files[0])
    write_table(scores, files[1])
    return files  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_every_estimator_from_files_that_hold_rewards_alone(name: str, tmp_path: Path) -> None:
    """Nothing says what is correct, so the filter has only the rewards to go by."""
    forest = two_trees()
    scores = scores_table(forest, REWARDS).select(["tree", "leaf", "reward"])
    params = load_section(AdvantageParams, [f"estimator={name}", "normalization=none"])
    files = written(tmp_path, forest, scores.take([3, 1, 5, 0, 2, 4]))
    estimate(*files, params)
    table = read_table(files[2], check_advantages)
    expected = compute(forest, REWARDS, REWARDS, params).value
    got = [value for row in table["advantage"].to_pylist() for value in row]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    assert np.abs(got).max() > 0.1
    assert set(table["estimator"].to_pylist()) == {name}


def test_the_filter_reads_what_is_correct_where_the_scores_say_it(tmp_path: Path) -> None:
    forest = two_trees()
    scores = scores_table(forest, REWARDS)
    correct = pa.array([True, True, True, True, False, True])
    scores = scores.set_column(scores.column_names.index("correct"), "correct", correct)
    files = written(tmp_path, forest, scores)
    estimate(*files, AdvantageParams(normalization="none"))
    rows = read_table(files[2], check_advantages)["advantage"].to_pylist()
    assert not any(value for row in rows[:3] for value in row)
    assert all(value for row in rows[3:] for value in row)


def test_what_cannot_be_estimated_is_refused(tmp_path: Path) -> None:
    forest = large_forest(count=1, width=2, depth=1, segment=1)
    files = written(tmp_path, forest, scores_table(forest, np.array([0.0, 1.0])))
    with pytest.raises(UserError, match=r"^advantage\.estimator: unknown 'gpro'; .*'grpo'\?$"):
        estimate(*files, AdvantageParams(estimator="gpro"))
    assert not files[2].exists()
