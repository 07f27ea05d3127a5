"""prefect.yaml and the flows' parameters, without a server."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from prefect import Task
from prefect.utilities.callables import parameter_schema

from flows.ablation import _sub_flow, ablation
from flows.deploy import _flow, deploy, read_deployments
from flows.efficiency import efficiency
from flows.evaluation import evaluation
from flows.experiment import experiment
from flows.parameters import runs_folder
from flows.pick_up import automations
from treepo.ablation.plan import load_plan
from treepo.errors import UserError

ROOT = Path(__file__).parents[1]


def test_the_project_s_deployments_fit_their_flows() -> None:
    entries = read_deployments(ROOT / "prefect.yaml")
    names = {_flow(ROOT / "prefect.yaml", entry).name for entry in entries}
    assert names == {"experiment", "ablation", "evaluation", "efficiency"}
    assert all(entry.concurrency_limit.limit == 1 for entry in entries)
    assert all(entry.schedules for entry in entries)


@pytest.mark.parametrize("flow", [experiment, ablation, evaluation, efficiency])
def test_every_parameter_is_typed_and_described(flow: object) -> None:
    schema = parameter_schema(flow)  # type: ignore[arg-type]
    assert schema.required == ["name"]
    for name, entry in schema.properties.items():
        assert entry.get("description"), name
        assert entry.get("type") or entry.get("anyOf"), name


ENTRY = "deployments:\n  - name: a\n    entrypoint: flows.experiment.experiment\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("deployments: [", ["is not YAML"]),
        ("name: x\n", ["deployments", "required"]),
        (f"{ENTRY}    cron: x\n", ["deployments.0.cron", "not permitted"]),
        (f"{ENTRY}    parameters: {{nam: x}}\n", ["deployment a", "no nam", "overrides"]),
        (f"{ENTRY}    parameters: {{name: 3}}\n", ["deployment a", "name"]),
        (f"{ENTRY}    parameters: {{name: x}}\n    schedules: [{{cron: daily}}]\n", ["cron"]),
        (ENTRY.replace("experiment.experiment", "nothing.here"), ["flows.nothing.here"]),
        (ENTRY.replace("experiment.experiment", "experiment.nothing"), ["nothing"]),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        deploy(file, 1)
    for word in ["prefect.yaml", *words]:
        assert word in str(error.value)


def test_only_runs_of_deployments_are_picked_up() -> None:
    deployment = UUID(int=1)
    for automation in automations([deployment]):
        related = automation.trigger.match_related  # type: ignore[union-attr]
        assert related.root["prefect.resource.id"] == [f"prefect.deployment.{deployment}"]


def test_every_variant_is_a_sub_flow_of_its_own() -> None:
    """A run that is picked up finds a sub-flow again by its key and the count of its calls."""
    runs = load_plan("smoke", ROOT / "params").runs
    keys = {Task(fn=_sub_flow(run).fn).task_key for run in runs}
    assert len(keys) == len(runs)


def test_a_folder_without_a_date_is_taken_as_it_is() -> None:
    assert runs_folder("runs/{name}") == Path("runs/{name}")
