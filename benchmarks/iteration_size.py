"""What the driver of a large iteration needs: seconds and memory of every step but the model's.

    python benchmarks/iteration_size.py [--trees 128 256 512] [--width 16] [--tokens 3500]

Trees of `width` trajectories that share their first segment; responses are pieces of real-looking
text, cut in segments, and end in a boxed number, right or wrong. Each size runs in a process of its
own, whose peak memory is read: forest table written and read, responses decoded and scored,
advantages, plan of the packed update.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tasks.advantage import estimate
from tasks.responses import grade, scores_table
from tasks.tables import read_forest
from treepo.forest import Forest
from treepo.models import Policy, load_tokenizer
from treepo.packing import micro_batches
from treepo.params import AdvantageParams, ModelParams, ScoringParams
from treepo.sampling.growth import Encode
from treepo.schemas import check_forest, check_scores
from treepo.scoring import VerifierPool
from treepo.storage import write_table
from treepo.tree import Segment, Tree

SEGMENT = 512
TEXT = "So we add 12 apples and 30 pears, which gives 42 pieces; then each of the 6 boxes holds 7. "
MICRO_BATCH = 16_384
LOGPROBS = [-0.5] * (SEGMENT + 16)


class Clock:
    """Seconds by the name of what took them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time the block."""
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began


def iteration(trees: int, width: int, tokens: int, encode: Encode) -> Forest:
    """Each tree: a shared first segment, then a chain of segments a trajectory."""
    text = np.resize(encode(TEXT), SEGMENT).tolist()
    inner, last = divmod(tokens - 1, SEGMENT)  # the last segment holds at least one token
    ends = [[*text[:last], *encode(f" \\boxed{{{number}}}")] for number in (42, 17)]
    grown: list[Tree] = []
    for index in range(trees):
        tree = Tree(f"p{index}", text[:100], seed=0)
        shared = tree.grow(tree.root, _segment(text), 0)
        for path in range(width):
            node = shared
            for _ in range(inner - 1):
                node = tree.grow(node, _segment(text), path)
            tree.grow(node, _segment(ends[path % 2]), path).finish = "answer"
        grown.append(tree)
    return Forest.from_trees(grown)


def _segment(tokens: list[int]) -> Segment:
    return Segment(tokens, LOGPROBS[: len(tokens)])


def measure(trees: int, width: int, tokens: int, folder: Path) -> dict[str, float]:
    """One size: seconds by step, trajectories, peak memory [GB]."""
    tokenizer = load_tokenizer(ModelParams(source="smollm2"))
    policy = Policy(None, tokenizer)  # pyright: ignore[reportArgumentType]
    made = iteration(trees, width, tokens, policy.encode)
    clock, (forest_file, scores_file, advantages) = Clock(), (folder / n for n in "fsa")
    answers = {f"p{index}": "42" for index in range(trees)}
    with clock.of("write the forest"):
        write_table(check_forest(made.to_arrow(), "forest"), forest_file)
    del made
    with clock.of("read it"):
        forest = read_forest(forest_file)
    with VerifierPool(ScoringParams(verifier="math")) as pool, clock.of("decode and score"):
        verdicts = grade(forest, policy, answers, pool, "train")
        write_table(check_scores(scores_table(forest, verdicts), "scores"), scores_file)
    with clock.of("advantages"):
        estimate(forest_file, scores_file, advantages, AdvantageParams())
    with clock.of("packing plan"):
        plan = list(micro_batches(forest, range(trees), MICRO_BATCH))
    assert sum(map(len, plan)) >= trees
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rest = {"all": sum(clock.seconds.values()), "peak [GB]": peak}
    return {"trajectories": len(forest.leaves), **clock.seconds, **rest}


def main() -> None:
    """A row a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trees", type=int, nargs="*", default=[128, 256, 512])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=3500)
    parser.add_argument("--alone", action="store_true", help="the first size, as JSON")
    asked = parser.parse_args()
    if asked.alone:
        with TemporaryDirectory() as folder:
            print(json.dumps(measure(asked.trees[0], asked.width, asked.tokens, Path(folder))))
        return
    shape = ["--width", str(asked.width), "--tokens", str(asked.tokens)]
    for trees in asked.trees:
        command = [sys.executable, __file__, "--alone", "--trees", str(trees), *shape]
        row = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        if trees == asked.trees[0]:
            print("| trees | " + " | ".join(row) + " |", "|---" * (len(row) + 1) + "|", sep="\n")
        print(f"| {trees} | " + " | ".join(f"{v:.4g}" for v in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
