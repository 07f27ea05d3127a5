"""What the sampler itself costs: trees of 16 leaves x 14 segments from a scripted engine.

    python benchmarks/sampler_bookkeeping.py [--segment 512] [--policy low_probability] [--profile]

Segments are ready made, so that what is timed is growth, stops, texts, budgets and fallback. One
segment in 64 ends its path: some trees fall back, most grow to the last segment. Times are CPU
seconds, as others' load would count in wall time; those of the scripted decode are shown apart,
since they are the tokenizer's.
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


class Decoder:
    """Tokens to text; `seconds`: what that took so far."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, tokens: Sequence[int]) -> str:
        """Text of the tokens."""
        started = time.process_time()
        text = "".join(map(WORDS.__getitem__, tokens))
        self.seconds += time.process_time() - started
        return text


def make_script(length: int):
    rng = random.Random(0)
    ready = [
        ([rng.randrange(len(WORDS)) for _ in range(length)], [-rng.random() for _ in range(length)])
        for _ in range(64)
    ]

    def script(request: Request) -> Segment:
        tokens, logprobs = ready[request.seed % 64]
        room, ended = request.max_tokens, request.seed % 64 == 1
        if room < length:
            tokens, logprobs = tokens[:room], logprobs[:room]
        return Segment(tokens, logprobs, ended)

    return script


def grow(trees: int, params: SamplingParams, script) -> tuple[float, float, int, int]:
    """Seconds without decoding, seconds of decoding, segments and leaves."""
    prompts = [Prompt(f"p{index}", list(range(100))) for index in range(trees)]
    decode = Decoder()
    started = time.process_time()
    growers = (grow_tree(prompt, params, 0, decode) for prompt in prompts)
    segments = leaves = 0
    for _, tree in ScriptedEngine(script).run(growers):
        segments += sum(1 for _ in tree.nodes()) - 1
        leaves += len(tree.leaves())
    seconds = time.process_time() - started
    return seconds - decode.seconds, decode.seconds, segments, leaves


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
    print("| trees | segments | leaves | sampler [s], median | us a segment | decode [s] |")
    print("|---|---|---|---|---|---|")
    for trees in SIZES:
        runs = [grow(trees, params, script) for _ in range(ROUNDS)]
        own, decoding, segments, leaves = sorted(runs)[ROUNDS // 2]
        each = 1e6 * own / segments
        print(
            f"| {trees} | {segments} | {leaves} | {own:.2f} | {each:.0f} | {decoding:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
