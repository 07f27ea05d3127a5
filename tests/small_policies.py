"""A small policy and a way to sample it, for replicas and their tests."""

from __future__ import annotations

from pathlib import Path

from treepo.engines.hosts import StoredPolicy
from treepo.engines.orders import Way
from treepo.models import Policy, initial_policy, save_policy
from treepo.params import EngineParams, ModelParams, SamplingParams, ScoringParams

# With room for two trees: the others are handed out later.
ENGINE = EngineParams(deterministic=True, threads=1, rows=2)
MODEL = ModelParams(hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64)
WAY = Way(SamplingParams(width=4, depth=3, segment_length=8), ScoringParams(verifier="numeric"))


def policy_in(folder: Path, seed: int, **shape: int) -> StoredPolicy:
    policy: Policy = initial_policy(MODEL.model_copy(update=shape), seed)
    save_policy(policy, folder)
    return StoredPolicy(policy, folder, f"seed {seed} {shape}")
