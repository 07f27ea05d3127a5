"""Processes of a smoke run killed at random moments; in the end it must be as if nothing had been.

    PYTHONPATH=tests python -m faults.killing --kills 50

prints a line a victim.
"""

from __future__ import annotations

import argparse
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from projects import make_project, same_runs, started

LONGEST_WAIT = 12.0  # before a kill [s]; a run of smoke takes a few times as long
PATIENCE = 600.0  # for one run [s]
# Judges in a process, whatever the answer, so that there is one to kill.
JUDGE = "def same(gold, answer):\n    return float(gold) == float(answer)\n"


@dataclass(frozen=True)
class Victim:
    """Which of a run's processes is killed, and the parameters with which it has such a one."""

    name: str
    overrides: tuple[str, ...]
    pick: Callable[[psutil.Process, random.Random], psutil.Process | None]


@dataclass
class Outcome:
    """kills: sent; runs: started; ended: by a kill or its consequences; identical: every time."""

    kills: int = 0
    runs: int = 0
    ended: int = 0
    experiments: int = 0
    identical: bool = True


def _driver(run: psutil.Process, _: random.Random) -> psutil.Process:
    return run


def _child(word: str) -> Callable[[psutil.Process, random.Random], psutil.Process | None]:
    """Any process below the run whose command holds the word."""

    def pick(run: psutil.Process, rng: random.Random) -> psutil.Process | None:
        found: list[psutil.Process] = []
        for child in run.children(recursive=True):
            with suppress(psutil.Error):
                if word in " ".join(child.cmdline()):
                    found.append(child)
        return rng.choice(found) if found else None

    return pick


ON_RAY = (
    *("compute.kind=ray", "compute.ray.replicas=2", "compute.ray.replica_cpus=0"),
    *("compute.ray.rank_cpus=0", "engine.deterministic=true"),
)
VICTIMS = {
    victim.name: victim
    for victim in (
        Victim("driver", (), _driver),
        Victim("verifier", ("scoring.verifier=judge:same",), _child("multiprocessing.forkserver")),
        Victim("rank", ("update.ranks=2",), _child("spawn_main")),
        Victim("engine", ("engine.name=vllm",), _child("treepo.engines.vllm_worker")),
        Victim("replica on Ray", ON_RAY, _child("ray::Replica")),
        Victim("rank on Ray", (*ON_RAY, "update.ranks=2"), _child("ray::Rank")),
    )
}


def project(folder: Path) -> Path:
    """A project in which every kind of victim can run."""
    made = make_project(folder)
    (made / "judge.py").write_text(JUDGE)
    return made


def run_under_fire(folder: Path, victim: Victim, rng: random.Random, kills: int) -> tuple[int, int]:
    """One run, of which up to `kills` processes are killed; kills sent, and its exit code.

    Raises AssertionError where it ends with a traceback, or hangs.
    """
    settings = [part for override in victim.overrides for part in ("--set", override)]
    sent, deadline = 0, time.monotonic() + PATIENCE
    with started(folder, "run", "smoke", *settings) as run:
        while run.poll() is None and sent < kills:
            with suppress(psutil.Error):
                if victim.pick(psutil.Process(run.pid), rng):
                    time.sleep(rng.uniform(0.0, LONGEST_WAIT))
                prey = victim.pick(psutil.Process(run.pid), rng)
                if prey and run.poll() is None:  # not one that the kill before has left
                    prey.send_signal(signal.SIGKILL)
                    sent += 1
            assert time.monotonic() < deadline, "the run hangs"
            time.sleep(0.05)
        _, errors = run.communicate(timeout=PATIENCE)
    assert "Traceback" not in errors, errors
    return sent, run.returncode


def kill(victim: Victim, kills: int, folder: Path, seed: int = 0) -> Outcome:
    """So many kills, in as many experiments as that takes; each is compared with a clean run."""
    rng, outcome = random.Random(seed), Outcome()
    clean = project(folder / "clean")
    assert run_under_fire(clean, victim, rng, 0) == (0, 0)
    while outcome.kills < kills:
        outcome.experiments += 1
        scene = project(folder / str(outcome.experiments))
        code = 1
        while code != 0:
            sent, code = run_under_fire(scene, victim, rng, kills - outcome.kills)
            outcome.kills += sent
            outcome.runs += 1
            outcome.ended += code != 0
        outcome.identical &= same_runs(clean, scene)
    return outcome


def main() -> None:
    """A line a victim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--victims", nargs="*", choices=VICTIMS, default=list(VICTIMS))
    options = parser.parse_args()
    print("| killed | kills | runs | ended by it | experiments | same bytes in the end |")
    print("|---|---|---|---|---|---|")
    for name in options.victims:
        with TemporaryDirectory() as folder:
            out = kill(VICTIMS[name], options.kills, Path(folder))
        figures = (name, out.kills, out.runs, out.ended, out.experiments, out.identical)
        print(f"| {' | '.join(map(str, figures))} |", flush=True)


if __name__ == "__main__":
    main()
