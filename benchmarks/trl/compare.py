"""One RL iteration of SmolLM2-135M, treepo against TRL's GRPOTrainer, alternating processes.

64 trajectories of 96 + 128 tokens in 4 groups of 16, float32, one optimizer step; rollout, reward
and update are timed, loading is not. First: sh benchmarks/trl/setup.sh
Usage: python benchmarks/trl/compare.py [--rounds 1] [--iterations 2] [--threads 2]
    [--clock wall|cpu]   cpu: seconds of this process, for a machine that others use (one thread)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
RESULT = HERE.parent / "results/trl.json"


def run(command: list[str], threads: int) -> dict[str, Any]:
    """The JSON line that an arm prints last."""
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the medians and write every round to benchmarks/results/trl.json."""
    from update import pretrained_folder

    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    asked = parser.parse_args()
    folder, clock = str(pretrained_folder()), asked.clock
    sizes = [folder, str(asked.iterations), str(asked.threads), clock]
    commands = {
        "treepo": [sys.executable, str(HERE / "tree.py"), *sizes],
        "trl": [str(HERE / ".venv/bin/python"), str(HERE / "grpo.py"), *sizes],
    }
    rounds: list[dict[str, Any]] = []
    for _ in range(asked.rounds):
        rounds.append({name: run(command, asked.threads) for name, command in commands.items()})
        print(json.dumps(rounds[-1]), file=sys.stderr)
    seconds = {
        name: median(second for entry in rounds for second in entry[name]["seconds"])
        for name in commands
    }
    result = {
        "clock": clock,
        "threads": asked.threads,
        "seconds": seconds,
        "faster": seconds["trl"] / seconds["treepo"],
        "rounds": rounds,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"seconds": seconds, "faster": result["faster"]}))


if __name__ == "__main__":
    main()
