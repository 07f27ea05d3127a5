"""The steps of `treepo efficiency`, in this process: rounds, resuming, refusals, reproduction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks.efficiency import measurements, responses, turns
from tasks.efficiency_report import TABLE
from tasks.hashing import content_hash
from tasks.reproduce import reproduce
from tasks.run import opened
from tasks.run_efficiency import EFFICIENCY, steps_of
from tasks.steps import make
from tasks.workspace import Workspace
from treepo.errors import UserError, WorkError
from treepo.schemas.efficiency import check_arm_responses, check_efficiency, check_measurements
from treepo.storage import read_table

VALUES = {
    "policy": "small_llama",
    "benchmarks": {"sums": {"source": "sums.jsonl"}},
    "rounds": 2,
    "engine": {"threads": 1},
    "scoring": {"verifier": "numeric"},
    "sampling": {"width": 4, "stops": ["eos", "limits"]},
    "arms": {
        "flat": {"sampling": {"depth": 1, "segment_length": 12, "initial_branching": 4}},
        "tree": {"against": "flat", "sampling": {"depth": 3, "segment_length": 4}},
    },
    "comparisons": {"all": {"arms": ["flat", "tree"], "shows": ["speed", "tokens", "scaling"]}},
}
Measure = Callable[..., Workspace]


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Runs an efficiency experiment in a folder of its own; stop_after: rounds."""
    monkeypatch.chdir(tmp_path)
    rows = [{"problem": f"{n}+1=?", "answer": str(n + 1)} for n in range(2)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(name: str = "mine", stop_after: int = 99, **changes: object) -> Workspace:
        file = Path(f"params/efficiency/{name}.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump({**VALUES, **changes}))
        workspace = EFFICIENCY.workspace(Path("runs"), name)
        params = EFFICIENCY.resolve(workspace)
        steps = steps_of(params, workspace)
        with opened(workspace, params) as context:
            for step in ("setup", "policy", "problems"):
                make(steps[step], context)
            for number in range(1, min(params.rounds, stop_after) + 1):
                make(steps["measure"], context, number)
            if stop_after >= params.rounds:
                make(steps["compare"], context, params.rounds)
        return workspace

    return run


def test_turns_go_there_and_back() -> None:
    assert turns(["a", "b", "c"], 1) == ["a", "b", "c"]
    assert turns(["a", "b", "c"], 2) == ["c", "b", "a"]


@pytest.mark.slow
def test_counts_agree_with_the_responses(measure: Measure) -> None:
    workspace = measure()
    for number in (1, 2):
        measured = read_table(workspace.path(measurements(number)), check_measurements)
        graded = read_table(workspace.path(responses(number)), check_arm_responses).to_pylist()
        for row in measured.to_pylist():
            own = [response for response in graded if response["arm"] == row["arm"]]
            assert len(own) == row["trajectories"] == 2 * 4
            assert sum(response["tokens"] for response in own) == row["trajectory_tokens"]
            assert sum(response["new_tokens"] for response in own) == row["sampled_tokens"]
            assert row["tokens_of_k"][-1] == pytest.approx(row["sampled_tokens"])
            assert 0 < row["prefill_tokens"] < row["context_tokens"]
    flat, tree = (
        next(r for r in measured.to_pylist() if r["arm"] == arm) for arm in ("flat", "tree")
    )
    assert flat["sampled_tokens"] == flat["trajectory_tokens"]
    assert flat["context_tokens"] == 4 * flat["prefill_tokens"]
    assert tree["sampled_tokens"] < tree["trajectory_tokens"]


@pytest.mark.slow
def test_stopped_resumed_and_prolonged(measure: Measure) -> None:
    whole, parted = measure("whole"), measure("parted", stop_after=1)
    first = parted.path(measurements(1))
    before = first.stat().st_mtime_ns
    measure("parted")
    assert first.stat().st_mtime_ns == before
    for number in (1, 2):
        paths = [run.path(responses(number)) for run in (whole, parted)]
        assert content_hash(paths[0]) == content_hash(paths[1])
    measure("parted", rounds=3)
    assert first.stat().st_mtime_ns == before
    table = read_table(parted.path(TABLE), check_efficiency)
    assert set(table["rounds"].to_pylist()) == {3}


@pytest.mark.slow
def test_reproduced(measure: Measure) -> None:
    workspace = measure()
    for name in (responses(2), "report/metrics.json", "report/index.html"):
        assert reproduce(workspace.path(name), chain=False) == "identical", name
    with pytest.raises(WorkError, match="_seconds"):
        reproduce(workspace.path(measurements(1)), chain=False)


@pytest.mark.slow
def test_what_does_not_fit_is_refused(measure: Measure) -> None:
    measure(stop_after=1)
    arms = {**VALUES["arms"], "tree": {"sampling": {"depth": 6, "segment_length": 2}}}
    with pytest.raises(UserError, match=r"was made with arms\.tree\..* now"):
        measure(arms=arms)
    long = {"flat": {"sampling": {"depth": 1, "segment_length": 9999, "initial_branching": 4}}}
    with pytest.raises(UserError, match=r"arms\.flat: .*exceed the model's"):
        measure("long", arms=long, comparisons={"all": {"arms": ["flat"]}})
    with pytest.raises(UserError, match="no experiment that has made a policy"):
        measure("other", policy="runs/nobody@2")
