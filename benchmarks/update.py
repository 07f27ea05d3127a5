"""The update on packed trees against the flat one, side by side: time, memory, agreement.

Cases: `smollm2` (4 trees of width 16, 4 segments of 32 tokens, prompts of 96), `quickstart` (its
model and a forest that it sampled after its warm-up), `sharing X` (one SmolLM2 tree whose flat
batch has X times its tokens). Arms alternate, each in a process of its own, whose peak of resident
memory is that arm's.

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
from pyarrow import parquet
from transformers import PreTrainedModel

from treepo.advantages import Advantages
from treepo.batch import Batch
from treepo.data import prepare
from treepo.engines.torch_tree import TorchEngine
from treepo.forest import Forest
from treepo.loading import load_experiment
from treepo.models import initial_policy, load_policy, load_tokenizer, save_policy
from treepo.packing import tree_tokens
from treepo.params import ModelParams, UpdateParams
from treepo.sampling import Prompt, grow_tree
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
                tree.grow(parent, Segment(draw(SEGMENT), [-1.0] * SEGMENT), key)
                for key, parent in enumerate(parents)
            ]
        for node in ends:
            node.finish = "max_tokens"
        grown.append(tree)
    return Forest.from_trees(grown)


def with_advantages(forest: Forest) -> Batch:
    """Random advantages, one a trajectory."""
    trajectory, row = forest.entries
    value = np.random.default_rng(1).normal(size=len(forest.leaves))[trajectory]
    advantages = Advantages(trajectory, row, value)
    return Batch(forest, advantages, range(forest.trees), 1.0, token_limit=1024)


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
    return Case(model, with_advantages(forest), budget, flat)


def quickstart() -> Case:
    """The forest of the first iteration, 32 trees, in micro-batches of the default budget."""
    folder = Path(tempfile.gettempdir()) / "treepo-benchmark-quickstart"
    budget = load_experiment(ROOT / "params/quickstart.yaml").update.micro_batch_tokens
    if not (folder / "forest.parquet").exists():
        folder.mkdir(exist_ok=True)
        make_quickstart(folder)
    forest = Forest.from_arrow(parquet.read_table(folder / "forest.parquet"))
    batch = with_advantages(forest)
    case = Case(load_policy(folder).model, batch, budget, budget)
    unique, flat = case.tokens
    return replace(case, flat_budget=round(budget * flat / unique))


def make_quickstart(folder: Path) -> None:
    """Warm the quickstart's policy up and let it sample; once, as it takes a minute or two."""
    params = load_experiment(ROOT / "params/quickstart.yaml")
    data = prepare(params.data, load_tokenizer(params.model), 0)
    rows = data.train.to_pylist()
    policy = initial_policy(params.model, 0)
    pairs = examples(rows, policy.tokenizer, min(policy.eos), params.warm_up, 0)
    for _ in warm_up(policy, pairs, params.warm_up, 0):
        pass
    prompts = [Prompt(row["prompt_id"], row["prompt_tokens"]) for row in rows[:32]]
    engine = TorchEngine(policy.model, policy.eos, params.sampling, params.engine)
    growers = (grow_tree(prompt, params.sampling, 0, policy.decode) for prompt in prompts)
    trees = dict(engine.run(growers))
    save_policy(policy, folder)
    parquet.write_table(
        Forest.from_trees(trees[i] for i in range(32)).to_arrow(), folder / "forest.parquet"
    )


CASES: dict[str, Callable[[], Case]] = {
    "smollm2": smollm2,
    "quickstart": quickstart,
    **{
        f"sharing {name}": partial(smollm2, 1, prompt, living)
        for name, (prompt, living) in SHARINGS.items()
    },
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def arm(name: str, case: Case, updates: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Seconds of each update of one arm, and the process's peak of resident memory."""
    if name == "packed":
        packed = case.packed()
        update: Callable[[], object] = lambda: packed.update(case.batch, seed=0)  # noqa: E731
    else:
        flat = case.flat()
        update = lambda: flat.update(case.batch)  # noqa: E731
    seconds: list[float] = []
    for _ in range(updates):
        started = clock()
        update()
        seconds.append(clock() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"tokens": case.tokens, "seconds": seconds, "peak_gb": peak}


def measure(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one case: a process for each arm, alternating."""
    runs: dict[str, list[dict[str, Any]]] = {"packed": [], "flat": []}
    options = [f"--threads={asked.threads}", f"--updates={asked.updates}", f"--clock={asked.clock}"]
    for _ in range(asked.rounds):
        for which, done in runs.items():
            command = [sys.executable, __file__, "--arm", which, "--cases", name, *options]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            done.append(json.loads(ran.stdout.splitlines()[-1]))
    seconds = {
        which: median(value for run in done for value in run["seconds"])
        for which, done in runs.items()
    }
    unique, flat = runs["flat"][0]["tokens"]
    faster, ratio = seconds["flat"] / seconds["packed"], flat / unique
    return {
        "threads": asked.threads,
        "clock": asked.clock,
        "tokens": {"unique": unique, "flat": flat, "ratio": ratio},
        "seconds": seconds,
        "faster": faster,
        "of_proportional": ratio / faster,
        "peak_gb": {which: max(run["peak_gb"] for run in done) for which, done in runs.items()},
        "runs": {which: [run["seconds"] for run in done] for which, done in runs.items()},
    }


def main() -> None:
    """Print each case as it is done and keep all of them in `benchmarks/results/update.json`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=1, help="updates a process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument(
        "--arm", choices=["packed", "flat"], help="what a process of `measure` does"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.arm:
        case = CASES[asked.cases[0]]()
        print(json.dumps(arm(asked.arm, case, asked.updates, CLOCKS[asked.clock])))
        return
    pretrained_folder()
    for name in asked.cases:
        found = measure(name, asked)
        print(json.dumps({name: found}))
        RESULT.parent.mkdir(exist_ok=True)
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        RESULT.write_text(json.dumps({**known, name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
