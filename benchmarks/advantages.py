"""Seconds to compute the advantages of 8,192 trajectories of 14 segments, by estimator.

512 trees of width 16 that fork in two at each of the first four steps. Each time includes the
query filter and the whitening, and what the forest derives from its columns at first use.
Usage: python benchmarks/advantages.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import median

import numpy as np

from treepo.advantages import ESTIMATORS, compute
from treepo.forest import Forest
from treepo.params import AdvantageParams
from treepo.tree import Node, Segment, Tree

TREES, FORKS, DEPTH = 512, 4, 14


def grow(tree: Tree, node: Node) -> None:
    """A node at every depth; two below each of the first four."""
    for key in range(2 if node.depth < FORKS else 1 if node.depth < DEPTH else 0):
        grow(tree, tree.grow(node, Segment([1, 2], [-1.0, -1.0]), key))
    if node.depth == DEPTH:
        node.finish = "eos"


def forest() -> Forest:
    """The trees, two to a prompt."""
    trees = [Tree(f"p{index // 2}", [0], seed=0) for index in range(TREES)]
    for tree in trees:
        grow(tree, tree.root)
    return Forest.from_trees(trees)


def main() -> None:
    """Print the median time of each estimator."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    made = forest()
    rewards = np.random.default_rng(0).integers(0, 2, len(made.leaves)).astype(np.float64)
    print(f"{len(made.leaves)} trajectories, {len(made)} nodes, {len(made.entries[0])} entries")
    for name in ESTIMATORS:
        params = AdvantageParams(estimator=name)
        seconds: list[float] = []
        for _ in range(rounds):
            fresh = replace(made)  # without what was derived before
            started = time.perf_counter()
            compute(fresh, rewards, rewards, params)
            seconds.append(time.perf_counter() - started)
        print(f"| `{name}` | {median(seconds):.3f} |")


if __name__ == "__main__":
    main()
