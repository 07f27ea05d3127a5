"""The quickstart on five seeds: held-out accuracy before and after, one row a seed.

Usage: python benchmarks/quickstart_seeds.py [--runs DIR]; finished seeds are not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

SEEDS = range(5)


def main() -> None:
    """Run or resume each seed, print the table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"))
    runs = parser.parse_args().runs
    print(
        "| seed | before | after | gain | maj@8 before | maj@8 after | tokens saved | steps [s] |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for seed in SEEDS:
        folder = runs / str(seed)
        command = ["treepo", "run", "quickstart", "--runs-dir", str(folder)]
        subprocess.run([*command, "--set", f"seed={seed}"], check=True, stdout=subprocess.DEVNULL)
        metrics = json.loads((folder / "quickstart/report/metrics.json").read_text())
        before, after = metrics["initial"], metrics["final"]
        saved = 1 - metrics["sampled_tokens"] / metrics["trajectory_tokens"]
        print(
            f"| {seed} | {before['accuracy']:.3f} | {after['accuracy']:.3f} "
            f"| {after['accuracy'] - before['accuracy']:+.3f} "
            f"| {before['maj@k']:.3f} | {after['maj@k']:.3f} | {saved:.0%} "
            f"| {metrics['wall_seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
