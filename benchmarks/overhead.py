"""What Prefect, MLflow, DVC, Parquet, schemas and lineage cost an iteration.

`treepo run smoke` with few and with many iterations, against the same iterations as a bare loop
over the library in memory. Both are timed as (many - few) / difference, alternately, so start-up
cancels. Usage: python benchmarks/overhead.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from project import ROOT, make_project

from tasks.responses import grade, sample
from treepo.advantages import compute, informative
from treepo.batch import Batch
from treepo.data import prepare
from treepo.engines.orders import OwnTrees, Way
from treepo.engines.torch_tree import TorchEngine
from treepo.forest import Forest
from treepo.loading import load_experiment
from treepo.models import initial_policy, load_tokenizer
from treepo.sampling import Prompt
from treepo.scoring import VerifierPool
from treepo.trainer import Trainer
from treepo.warm_up import examples, warm_up

FEW, MANY = 2, 22


def flow(iterations: int) -> float:
    """Wall seconds of the whole command in a fresh project."""
    with tempfile.TemporaryDirectory() as name:
        folder = make_project(Path(name))
        started = time.perf_counter()
        treepo = Path(sys.executable).with_name("treepo")
        command = [treepo, "run", "smoke", "--set", f"iterations={iterations}"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def bare(iterations: int) -> float:
    """Wall seconds of the same iterations in memory."""
    params = load_experiment(ROOT / "params/smoke.yaml")
    torch.set_num_threads(params.engine.threads)
    data = prepare(params.data, load_tokenizer(params.model), 0)
    rows = data.train.to_pylist()
    policy = initial_policy(params.model, 0)
    pairs = examples(rows, policy.tokenizer, min(policy.eos), params.warm_up, 0)
    for _ in warm_up(policy, pairs, params.warm_up, 0):
        pass
    answers = {row["prompt_id"]: row["answer"] for row in rows}
    prompts = [Prompt(row["prompt_id"], row["prompt_tokens"]) for row in rows]
    trainer = Trainer(policy.model, params.update)
    engine = TorchEngine(policy.model, policy.eos, params.sampling, params.engine)
    sampler = OwnTrees(engine, policy, Way(params.sampling))
    with VerifierPool(params.scoring) as pool:
        started = time.perf_counter()
        for k in range(iterations):
            chosen = [prompts[(k * 8 + i) % len(prompts)] for i in range(params.rollout.prompts)]
            forest = Forest.from_trees(sample(sampler, policy, chosen, params.sampling, k, {}))
            verdicts = grade(forest, policy, answers, pool, "memory")
            rewards = np.array([verdict.reward for verdict in verdicts])
            advantages = compute(forest, rewards, rewards, params.advantage)
            kept = np.flatnonzero(informative(forest, rewards)).tolist()
            limit = params.sampling.token_limit
            trainer.update(Batch(forest, advantages, kept, 1.0, limit), k)
        return time.perf_counter() - started


def main() -> None:
    """Print seconds an iteration of both, and their difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    flows: list[float] = []
    bares: list[float] = []
    for _ in range(rounds):
        flows.append((flow(MANY) - flow(FEW)) / (MANY - FEW))
        bares.append((bare(MANY) - bare(FEW)) / (MANY - FEW))
        print(f"flow {flows[-1]:.3f} s, bare {bares[-1]:.3f} s an iteration", file=sys.stderr)
    result = {"flow": median(flows), "bare": median(bares)}
    print(json.dumps({**result, "overhead": result["flow"] - result["bare"]}))


if __name__ == "__main__":
    main()
