"""What an efficiency experiment may ask for, and how its mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from treepo.errors import UserError
from treepo.loading import load
from treepo.params import EfficiencyParams

FOLDER = Path(__file__).parents[1] / "params/efficiency"
GOOD = {
    "benchmarks": {"sums": {"source": "sums.jsonl"}},
    "sampling": {"width": 8, "fallback": {"position": "from_root"}},
    "arms": {
        "flat": {"sampling": {"depth": 1, "segment_length": 32, "initial_branching": 8}},
        "tree": {
            "against": "flat",
            "sampling": {"depth": 4, "segment_length": 8, "fallback": {"candidates": "random"}},
        },
    },
    "comparisons": {"all": {"arms": ["flat", "tree"]}},
}


def read(tmp_path: Path, *overrides: str) -> EfficiencyParams:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    return load(EfficiencyParams, file, overrides)


def test_an_arm_goes_on_top_of_what_all_share(tmp_path: Path) -> None:
    tree = read(tmp_path).arms["tree"].sampling
    assert (tree.width, tree.depth) == (8, 4)
    assert (tree.fallback.position, tree.fallback.candidates) == ("from_root", "random")


def test_written_parameters_read_back_the_same(tmp_path: Path) -> None:
    params = read(tmp_path)
    assert EfficiencyParams.model_validate(params.model_dump(mode="json")) == params


def test_an_arm_with_nothing_of_its_own(tmp_path: Path) -> None:
    assert read(tmp_path, "arms.third={}", "arms.fourth=null").arms["third"].sampling.width == 8


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("arms.tree.sampling.dept=3", "unknown parameter 'arms.tree.sampling.dept'"),
        ("arms.tree.smpling={}", "unknown parameter 'arms.tree.smpling'"),
        ("sampling.widht=3", "unknown parameter 'arms.flat.sampling.widht'"),
        ("arms.tree.sampling.max_tokens=4", "longer than sampling.max_tokens 4"),
        ("arms.tree.against=flit", "there is no arm 'flit'; there are: flat, tree"),
        ("arms.tree.against=tree", "cannot be compared with itself"),
        ("comparisons.all.arms=[flat, bush]", "there is no arm 'bush'"),
        ("comparisons.all.shows=[sped]", "comparisons.all.shows"),
        ("k=9", "k = 9 needs as many trajectories, but arm 'flat' has width 8"),
        ("sampling.temperature=0", "must be above 0"),
        ("arms.tree.sampling.allocation.policy=evn", "did you mean 'even'"),
        ("arms=[flat]", "arms"),
        ("sampling=3", "sampling"),
        ("arms.tree.sampling=3", "arms.tree.sampling"),
        ("rounds=0", "rounds"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, override)
    assert words in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_files_that_come_along(file: Path) -> None:
    """At a fixed budget: all arms that are compared may sample equally long responses."""
    params = load(EfficiencyParams, file)
    assert set(params.arms) == {arm for c in params.comparisons.values() for arm in c.arms}
    for arm in params.arms.values():
        if arm.against:
            base = params.arms[arm.against].sampling
            assert base.depth == 1
            assert (base.width, base.initial_branching) == (arm.sampling.width, arm.sampling.width)
            assert base.token_limit == arm.sampling.token_limit
            assert base.stops == arm.sampling.stops
    if file.stem == "paper":
        assert {arm.sampling.token_limit for arm in params.arms.values()} == {14 * 512}
