"""Step `report` in this process: its numbers are those of the steps before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.run import EXPERIMENT, opened, perform
from tasks.workspace import METRICS, Workspace, evaluation

ROOT = Path(__file__).parents[1]
SETTINGS = ("iterations=0", "warm_up.steps=0", "evaluation.samples=4", "evaluation.k=2")


@pytest.mark.slow
def test_the_report_draws_k_responses_as_the_evaluation_did(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "smoke")
    params = EXPERIMENT.resolve(workspace, SETTINGS, ROOT / "params")
    with opened(workspace, params) as context:
        for step in ("prepare", "warm_up", "evaluate", "report"):
            perform(step, context, 0)
        judged = context.lineage.get(evaluation(0))
    assert judged is not None
    told = json.loads(workspace.path(METRICS).read_text())
    assert told["k"] == judged.metrics["k"] == 2
    for name, figure in told["final"].items():
        assert figure == judged.metrics[name], name
