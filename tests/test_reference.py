"""The KL's reference policy as an artifact of the run: traced, and refused where it misfits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks.benchmarks import policy_artifact
from tasks.reproduce import reproduce
from tasks.run import first_policies, opened, perform
from tasks.workspace import REFERENCE, Workspace, policy
from treepo.errors import UserError
from treepo.loading import load_experiment
from treepo.models import initial_policy, save_policy
from treepo.params import ModelParams

MODEL = {"hidden_size": 16, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate_size": 16}
EXPERIMENT = """
data: {{train_size: 8, heldout_size: 2, max_prompt_tokens: 64}}
model: {model}
rollout: {{prompts: 4}}
engine: {{threads: 1}}
sampling: {{width: 4, depth: 2, segment_length: 8}}
scoring: {{verifier: numeric, boxed: false, workers: 1, weights: {{format: 1.0}}}}
advantage: {{query_filter: false}}
update: {{warm_up_steps: 0, kl_coefficient: 0.1, reference: {reference}}}
"""


def run(folder: Path, reference: str) -> Workspace:
    """The first iteration of an experiment whose KL is to `reference`."""
    file = folder / "x.yaml"
    file.write_text(EXPERIMENT.format(model=json.dumps(MODEL), reference=reference))
    params = load_experiment(file)
    workspace = Workspace(folder / "runs", "x")
    with opened(workspace, params) as context:
        for name in ("resolve", "prepare", *first_policies(params)):
            perform(name, context, 0)
        for name in ("rollout", "score", "advantage", "update"):
            perform(name, context, 1)
        inputs = context.lineage.get(policy(1)).inputs
        assert set(inputs) & {policy(0), REFERENCE} == (
            {policy(0)} if reference == "null" else {policy(0), REFERENCE}
        )
    return workspace


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A policy of the same tokens, with other weights."""
    save_policy(initial_policy(ModelParams(**MODEL), seed=77), tmp_path / "other")
    return tmp_path / "other"


def test_another_reference_becomes_an_artifact_that_can_be_made_again(
    tmp_path: Path, other: Path
) -> None:
    workspace = run(tmp_path, str(other))
    updated = json.loads(workspace.path("iterations/000001/update.json").read_text())
    assert updated["update/reference_kl"] > 1e-3
    assert reproduce(workspace.path(REFERENCE), chain=False) == "identical"
    assert policy_artifact(f"{workspace.root}@last", workspace) == policy(1)
    shutil.rmtree(other)
    assert reproduce(workspace.path(policy(1)), chain=False) == "identical"


def test_the_first_policy_needs_no_copy(tmp_path: Path) -> None:
    workspace = run(tmp_path, "null")
    updated = json.loads(workspace.path("iterations/000001/update.json").read_text())
    assert updated["update/reference_kl"] == pytest.approx(0, abs=1e-6)
    assert not workspace.path(REFERENCE).exists()


def test_what_is_no_model_or_has_other_tokens_is_refused(tmp_path: Path, other: Path) -> None:
    with pytest.raises(UserError, match=r"^update.reference: '\./nowhere' cannot be loaded"):
        run(tmp_path, "./nowhere")
    words = json.loads((other / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    first, second = list(vocabulary)[10:12]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match=r"^update.reference: .* has other tokens than the policy"):
        run(tmp_path, str(other))
