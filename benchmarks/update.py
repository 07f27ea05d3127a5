"""The update on packed trees against the flat one, side by side: time, memory, agreement.

Cases: `smollm2` (4 trees of width 16, 4 segments of 32 tokens, prompts of 96), `quickstart` (its
model and a forest that it sampled after its warm-up), `sharing X` (one SmolLM2 tree whose flat
batch has X times its tokens). Arms alternate in one process; each peak of memory is a process of
its own.

Usage: python benchmarks/update.py [--cases smollm2 "sharing 1.1"] [--rounds 3] [--threads 2]
    [--clock wall|cpu]   cpu: seconds of this process, for a machine that others use (one thread)
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from flat import FlatTrainer
from transformers import PreTrainedModel

from tasks.responses import sample
from treepo.advantages import Advantages
from treepo.batch import Batch
from treepo.data import prepare
from treepo.forest import Forest
from treepo.loading import load_experiment
from treepo.logprobs import old_logprobs
from treepo.models import initial_policy, load_policy, load_tokenizer, save_policy
from treepo.packing import tree_tokens
from treepo.params import ModelParams, UpdateParams
from treepo.sampling import Prompt
from treepo.trainer import Trainer
from treepo.tree import Segment, Tree
from treepo.warm_up import examples, warm_up

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/update.json"
WIDTH, SEGMENT = 16, 32
# Prompt tokens and living paths at each of four depths.
SHARINGS = {
    "1.1": (16, (16, 16, 16, 16)),
    "1.3": (48, (16, 16, 16, 16)),
    "1.7": (96, (16, 16, 16, 16)),
    "2.4": (96, (4, 8, 16, 16)),
    "3.4": (96, (2, 4, 8, 16)),
    "4.1": (160, (2, 4, 8, 16)),
}


@dataclass(frozen=True)
class Case:
    """What both arms learn from. packed_budget, flat_budget: tokens of a micro-batch, so that
    both hold the same trajectories at a time."""

    model: PreTrainedModel
    batch: Batch
    packed_budget: int
    flat_budget: int

    @property
    def tokens(self) -> tuple[int, int]:
        """Unique tokens and those of the flat batch, prompts included."""
        forest = self.batch.forest
        prompts = (forest.lengths * forest.leaf_counts)[forest.parent < 0].sum()
        return int(tree_tokens(forest).sum()), int(forest.trajectory_tokens + prompts)

    def packed(self) -> Trainer:
        """The trainer of treepo."""
        params = UpdateParams(micro_batch_tokens=self.packed_budget, mismatch_limit=None)
        return Trainer(self.model, params)

    def flat(self) -> FlatTrainer:
        """The same on padded rows."""
        return FlatTrainer(self.model, UpdateParams(), self.flat_budget)


def synthetic(trees: int, prompt: int, living: tuple[int, ...]) -> Forest:
    """Random tokens in trees whose living paths fork evenly from depth to depth."""
    random = np.random.default_rng(0)

    def draw(count: int) -> list[int]:
        return random.integers(0, 49_000, count).tolist()

    grown: list[Tree] = []
    for index in range(trees):
        tree = Tree(f"p{index}", draw(prompt), seed=index)
        ends = [tree.root]
        for paths in living:
            parents = [node for node in ends for _ in range(paths // len(ends))]
            ends = [
                tree.grow(parent, Segment(draw(SEGMENT), [0.0] * SEGMENT), key)
                for key, parent in enumerate(parents)
            ]
        for node in ends:
            node.finish = "max_tokens"
        grown.append(tree)
    return Forest.from_trees(grown)


def with_advantages(model: PreTrainedModel, forest: Forest, budget: int) -> Batch:
    """Logprobs of the model itself and random advantages, one a trajectory."""
    trees = range(forest.trees)
    logprobs = old_logprobs(model, forest, trees, 1.0, budget)
    trajectory, row = forest.entries
    value = np.random.default_rng(1).normal(size=len(forest.leaves))[trajectory]
    known = replace(forest, logprobs=logprobs)
    return Batch(known, Advantages(trajectory, row, value), trees, 1.0, WIDTH * SEGMENT)


def pretrained_folder() -> Path:
    """SmolLM2-135M in Hugging Face layout; converted once, as its GGUF file takes long to read."""
    folder = Path(tempfile.gettempdir()) / "treepo-benchmark-smollm2"
    if not (folder / "config.json").exists():
        folder.mkdir(exist_ok=True)
        save_policy(initial_policy(ModelParams(source="smollm2"), seed=0), folder)
    return folder


def smollm2(trees: int = 4, prompt: int = 96, living: tuple[int, ...] = (2, 4, 8, 16)) -> Case:
    """One tree a micro-batch, with its 16 trajectories on the flat side."""
    model = load_policy(pretrained_folder()).model
    forest = synthetic(trees, prompt, living)
    budget = int(tree_tokens(forest).max())
    flat = WIDTH * (prompt + len(living) * SEGMENT)
    return Case(model, with_advantages(model, forest, budget), budget, flat)


def quickstart() -> Case:
    """The forest of the first iteration, minibatch of 32 trees, the default budget for both."""
    params = load_experiment(ROOT / "params/quickstart.yaml")
    data = prepare(params.data, load_tokenizer(params.model), 0)
    rows = data.train.to_pylist()
    policy = initial_policy(params.model, 0)
    pairs = examples(rows, policy.tokenizer, min(policy.eos), params.warm_up, 0)
    for _ in warm_up(policy, pairs, params.warm_up, 0):
        pass
    prompts = [Prompt(row["prompt_id"], row["prompt_tokens"]) for row in rows[:32]]
    trees = sample(policy, prompts, params.sampling, params.engine, 0)
    budget = params.update.micro_batch_tokens
    batch = with_advantages(policy.model, Forest.from_trees(trees), budget)
    return Case(policy.model, batch, budget, budget)


CASES: dict[str, Callable[[], Case]] = {
    "smollm2": smollm2,
    "quickstart": quickstart,
    **{
        f"sharing {name}": partial(smollm2, 1, prompt, living)
        for name, (prompt, living) in SHARINGS.items()
    },
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def times(case: Case, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of an update, arms alternating, the first round of each left out."""
    packed, flat = case.packed(), case.flat()
    arms: dict[str, Callable[[], object]] = {
        "packed": lambda: packed.update(case.batch, seed=0),
        "flat": lambda: flat.update(case.batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds + 1):
        for name, update in arms.items():
            started = clock()
            update()
            seconds[name].append(clock() - started)
    return {name: median(values[1:]) for name, values in seconds.items()}


def memory(name: str, arm: str, threads: int) -> float:
    """Peak resident memory of one update in a process of its own [GB]."""
    command = [sys.executable, __file__, "--arm", arm, "--cases", name, "--threads", str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def peak(case: Case, arm: str) -> float:
    if arm == "packed":
        case.packed().update(case.batch, seed=0)
    elif arm == "flat":
        case.flat().update(case.batch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measure(name: str, rounds: int, threads: int, clock: str) -> dict[str, Any]:
    """All numbers of one case."""
    case = CASES[name]()
    unique, flat = case.tokens
    seconds = times(case, rounds, CLOCKS[clock])
    found: dict[str, Any] = {
        "threads": threads,
        "clock": clock,
        "tokens": {"unique": unique, "flat": flat, "ratio": flat / unique},
        "seconds": seconds,
        "faster": seconds["flat"] / seconds["packed"],
        "of_proportional": seconds["packed"] / seconds["flat"] * flat / unique,
    }
    del case
    if name != "quickstart":  # a small model's memory is that of the libraries
        found["peak_gb"] = {arm: memory(name, arm, threads) for arm in ("none", "packed", "flat")}
    return found


def main() -> None:
    """Print each case as it is done and keep all of them in `benchmarks/results/update.json`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--arm", choices=["none", "packed", "flat"], help="peak memory of one arm")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.arm:
        print(peak(CASES[asked.cases[0]](), asked.arm))
        return
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in asked.cases:
        known[name] = measure(name, asked.rounds, asked.threads, asked.clock)
        print(json.dumps(known[name]))
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
