"""Policies in the pipeline's steps: a user's own, by value, scheduled, with a forced answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.reproduce import reproduce
from tasks.responses import sample
from tasks.run import opened, perform
from tasks.tables import read_forest
from tasks.workspace import Workspace
from treepo.engines.orders import OwnTrees, Way
from treepo.engines.torch_tree import TorchEngine
from treepo.errors import UserError
from treepo.loading import load_experiment
from treepo.models import initial_policy
from treepo.params import EngineParams, ModelParams, SamplingParams
from treepo.sampling import Prompt

EXPERIMENT = """
plugins: [own.py]
iterations: 2
data: {train_size: 8, heldout_size: 2, max_prompt_tokens: 64}
model: {hidden_size: 16, layers: 1, heads: 2, kv_heads: 1, intermediate_size: 16}
rollout: {prompts: 3}
engine: {threads: 1}
sampling:
  width: 6
  depth: 4
  segment_length: 8
  allocation: {policy: low_probability, temperature: [5.0, 1.0], anneal_iterations: 2}
  forced_answer: {remaining: 8, text: "\\n\\\\boxed{"}
  fallback: {candidates: high_value, position: second_half}
scoring: {verifier: numeric, workers: 1}
advantage: {query_filter: false}
update: {warm_up_steps: 0}
"""
OWN = """
from treepo.sampling.fallback import POSITIONS

@POSITIONS.register("second_half")
def second_half(growth, leaf, span):
    \"\"\"A random token of the second half.\"\"\"
    return growth.rng.choice(span[len(span) // 2:])
"""


def test_an_iteration_with_policies_of_every_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "x.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    params = load_experiment(tmp_path / "x.yaml")
    workspace = Workspace(tmp_path / "runs", "x")
    workspace.root.mkdir(parents=True)
    with opened(workspace, params) as context:
        for name in ("resolve", "prepare", "warm_up"):
            perform(name, context, 0)
        for name in ("rollout", "score", "advantage", "update"):
            perform(name, context, 1)
    iteration = workspace.path("iterations/000001")
    assert "forced" in pq.read_schema(iteration / "forest.parquet").names
    forest = read_forest(iteration / "forest.parquet")
    assert forest.forced.any()
    assert np.bincount(forest.tree[forest.leaves]).tolist() == [6, 6, 6]
    metrics = json.loads((iteration / "update.json").read_text())
    assert metrics["rollout/sampled_tokens"] == forest.lengths[forest.sampled].sum()
    recorded = {record.artifact: record.params for record in context.lineage}
    assert recorded["iterations/000001/forest.parquet"]["plugins"] == ["own.py"]
    assert reproduce(iteration / "forest.parquet", chain=False) == "identical"


def test_bad_input_names_the_key() -> None:
    policy = initial_policy(ModelParams(hidden_size=16, layers=1, max_positions=64), seed=0)
    prompts = [Prompt("p", list(range(4, 60)))]
    long = SamplingParams(width=2, depth=2, segment_length=8)
    engine = TorchEngine(policy.model, policy.eos, long, EngineParams())
    sampler = OwnTrees(engine, policy, Way(long))
    with pytest.raises(UserError, match=r"prompts of 56 and responses of 16 .* data.max_prompt"):
        sample(sampler, policy, prompts, long, 0, {})
    by_value = long.model_copy(
        update={"allocation": long.allocation.model_copy(update={"policy": "low_value"})}
    )
    with pytest.raises(UserError, match=r"^sampling: a policy by value needs the rewards"):
        sample(
            OwnTrees(engine, policy, Way(by_value)), policy, [Prompt("p", [5, 6])], by_value, 0, {}
        )
