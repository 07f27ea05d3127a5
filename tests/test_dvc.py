"""dvc.yaml against the steps: what a step reads, DVC must see change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.run import STEPS, stage
from treepo.params import ExperimentParams

STAGES: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "dvc.yaml").read_text())[
    "stages"
]
# With every step that an experiment may ask for.
ALL = ExperimentParams.model_validate({"update": {"kl_coefficient": 0.1, "reference": "smollm2"}})
# What decides which iterations a stage has.
COUNTS = {"train": {"iterations"}, "evaluate": {"iterations", "evaluate_every"}}


@pytest.mark.parametrize("name", ["prepare", "train", "evaluate"])
def test_a_stage_depends_on_what_its_steps_read(name: str) -> None:
    (file,) = STAGES[name]["params"]
    read = {section for step, _ in stage(name, ALL) for section in STEPS[step].reads}
    assert set(*file.values()) == {"seed", *read, *COUNTS.get(name, ())}


def test_the_report_depends_on_all_parameters() -> None:
    assert "runs/${item.experiment}/params.yaml" in STAGES["report"]["deps"]


@pytest.mark.parametrize("name", ["resolve", "benchmarks", "measure"])
def test_a_stage_that_reads_params_depends_on_the_recipes(name: str) -> None:
    assert "params/datasets" in STAGES[name]["deps"]
