"""What the sampler itself costs: trees of 16 leaves x 14 segments from a scripted engine.

    python benchmarks/sampler_bookkeeping.py [--segment 512] [--policy low_probability] [--profile]

Segments are ready made, so that what is timed is growth, stops, texts, budgets and fallback. One
token in 16 segments ends a path: some trees fall back, most grow to the last segment.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import time
from collections.abc import Sequence

from treepo.engines.scripted import ScriptedEngine
from treepo.params import AllocationParams, SamplingParams
from treepo.sampling import Prompt, Request, grow_tree
from treepo.tree import Segment

SIZES = (128, 256, 512)
ROUNDS = 3
WORDS = [" the", " sum", " of", " {a}", " 12", " +", " is", "\n", " so", " we", " have", "x", " ="]


def decode(tokens: Sequence[int]) -> str:
    return "".join(map(WORDS.__getitem__, tokens))


def make_script(length: int):
    rng = random.Random(0)
    ready = [
        ([rng.randrange(len(WORDS)) for _ in range(length)], [-rng.random() for _ in range(length)])
        for _ in range(64)
    ]

    def script(request: Request) -> Segment:
        tokens, logprobs = ready[request.seed % 64]
        room, ended = request.max_tokens, request.seed % 16 == 1
        if room < length:
            tokens, logprobs = tokens[:room], logprobs[:room]
        return Segment(tokens, logprobs, ended)

    return script


def grow(trees: int, params: SamplingParams, script) -> tuple[float, int, int]:
    """CPU seconds (other processes' load does not count), segments and leaves."""
    prompts = [Prompt(f"p{index}", list(range(100))) for index in range(trees)]
    started = time.process_time()
    growers = (grow_tree(prompt, params, 0, decode) for prompt in prompts)
    segments = leaves = 0
    for _, tree in ScriptedEngine(script).run(growers):
        segments += sum(1 for _ in tree.nodes()) - 1
        leaves += len(tree.leaves())
    return time.process_time() - started, segments, leaves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segment", type=int, default=512, help="tokens a segment")
    parser.add_argument("--policy", default="even", help="allocation policy")
    parser.add_argument("--profile", action="store_true", help="of 128 trees instead of times")
    options = parser.parse_args()
    params = SamplingParams(
        width=16,
        depth=14,
        segment_length=options.segment,
        allocation=AllocationParams(policy=options.policy, statistic="path_mean"),
    )
    script = make_script(options.segment)
    if options.profile:
        with cProfile.Profile() as profile:
            grow(SIZES[0], params, script)
        pstats.Stats(profile).sort_stats("tottime").print_stats(18)
        return
    print("| trees | segments | leaves | CPU seconds, median | us a segment |")
    print("|---|---|---|---|---|")
    for trees in SIZES:
        runs = [grow(trees, params, script) for _ in range(ROUNDS)]
        seconds, segments, leaves = sorted(runs)[ROUNDS // 2]
        each = 1e6 * seconds / segments
        print(f"| {trees} | {segments} | {leaves} | {seconds:.2f} | {each:.0f} |", flush=True)


if __name__ == "__main__":
    main()
