"""Throughput of the `math` verifier, and its agreement with labelled pairs.

The mix: golds of public benchmarks, each with the gold itself, the gold written in another way, and
a wrong answer, in responses of usual length; no pair occurs twice, so the cache helps nobody.
A pool is warm once it has judged other pairs: one half of them, before the other half.
Usage: python benchmarks/verifiers.py BENCHMARKS_FOLDER [--pairs PAIRS.jsonl] [--workers 2]
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

from treepo.params import ScoringParams
from treepo.scoring import VerifierPool, boxed_answer

PER_FILE = 200
WORDS = "First we note that the sum of both sides must be even, so we can write it as follows. " * 8
Pair = tuple[str, str]


def rewritten(gold: str) -> str:
    """The same value as a model might write it."""
    text = gold.replace("\\dfrac", "\\frac").replace("\\left", "").replace("\\right", "")
    if re.fullmatch(r"\d{4,}", text):
        return f"{int(text):,}"
    if re.fullmatch(r"-?\d+", text):
        return f"{text}.0"
    text = re.sub(r"\\sqrt(\d)", r"\\sqrt{\1}", text)
    return text.replace("\\frac", "\\dfrac").replace(", ", ",").replace(" + ", "+") + " "


def wrong(gold: str, others: list[str]) -> str:
    """Half slips of one number, half another problem's answer."""
    numbers = list(re.finditer(r"\d+", gold))
    if numbers and random.random() < 0.5:
        slip = random.choice(numbers)
        return f"{gold[: slip.start()]}{int(slip[0]) + 1}{gold[slip.end() :]}"
    return random.choice([other for other in others if other != gold])


def mix(folder: Path, size: int) -> dict[str, list[Pair]]:
    """(gold, response) pairs of each kind, without a repetition."""
    random.seed(0)
    pairs: dict[str, dict[Pair, None]] = {"same": {}, "rewritten": {}, "wrong": {}}
    for file in sorted(folder.glob("*.jsonl")):
        golds = [json.loads(line)["answer"] for line in file.open(encoding="utf-8")]
        for gold in random.sample(golds, min(size, len(golds))):
            for kind, answer in (
                ("same", gold),
                ("rewritten", rewritten(gold)),
                ("wrong", wrong(gold, golds)),
            ):
                pairs[kind][gold, f"{WORDS}The answer is \\boxed{{{answer}}}."] = None
    return {kind: list(found) for kind, found in pairs.items()}


def throughput(pairs: list[Pair], workers: int) -> tuple[float, float, int]:
    """Verdicts a second of a new pool, and of a warm one; how many of all were "correct"."""
    half = len(pairs) // 2
    rates: list[float] = []
    correct = 0
    with VerifierPool(ScoringParams(verifier="math", workers=workers)) as pool:
        pool.score([(r"\sin x", r"\boxed{\cos x}")])
        for part in (pairs[:half], pairs[half:]):
            started = time.perf_counter()
            verdicts = pool.score(part)
            rates.append(len(part) / (time.perf_counter() - started))
            correct += sum(verdict.correct for verdict in verdicts)
    return rates[0], rates[1], correct


def cpu_rate(pairs: list[Pair]) -> tuple[float, int]:
    """Verdicts a CPU second in this process alone, and how many pairs math-verify had to judge."""
    from treepo.scoring.math import math, shortcut, warm_up

    warm_up()
    hard = 0
    started = time.process_time()
    for gold, response in pairs:
        answer = boxed_answer(response) or ""
        if shortcut(gold, answer) is None:
            hard += 1
            with suppress(Exception):
                math(gold, answer)
    return len(pairs) / (time.process_time() - started), hard


def agreement(file: Path) -> dict[str, object]:
    """Agreement by tag, and the longest and total time of a warm pool."""
    rows = [json.loads(line) for line in file.open(encoding="utf-8")]
    with VerifierPool(ScoringParams(verifier="math", max_characters=200_000)) as pool:
        pool.score([(r"\sin x", r"\boxed{\cos x}")])
        started = time.perf_counter()
        verdicts = pool.score([(row["gold"], row["response"]) for row in rows])
        seconds = time.perf_counter() - started
    found: dict[str, object] = {"seconds": round(seconds, 2)}
    for tag in ("", "unboxed", "convention", "corrected"):
        chosen = [
            (v.correct, row["correct"])
            for row, v in zip(rows, verdicts, strict=True)
            if row["source"].partition("#")[2] == tag
        ]
        found[tag or "core"] = {
            "rows": len(chosen),
            "agree": sum(ours == label for ours, label in chosen),
            "false accepts": sum(ours and not label for ours, label in chosen),
        }
    return found


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    kinds = mix(arguments.folder, PER_FILE)
    whole = [pair for pairs in kinds.values() for pair in pairs]
    random.shuffle(whole)
    rate, hard = cpu_rate(whole)
    result: dict[str, object] = {"a CPU second": round(rate), "for math-verify": hard}
    for name, pairs in {"mix": whole, **kinds}.items():
        rounds: list[tuple[float, float, int]] = []
        for _ in range(arguments.rounds):
            random.shuffle(pairs)
            rounds.append(throughput(pairs, arguments.workers))
        result[name] = {
            "pairs": len(pairs),
            "a second, new": round(median(new for new, _, _ in rounds)),
            "a second, warm": round(median(warm for _, warm, _ in rounds)),
            "correct": rounds[0][2],
        }
    if arguments.pairs:
        result["pairs"] = agreement(arguments.pairs)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
