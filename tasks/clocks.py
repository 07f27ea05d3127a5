"""What sampling took: wall time, and the time that the device was at work for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from treepo.params import EngineParams


@dataclass
class Spent:
    """Seconds; 0 until the clock was stopped."""

    wall: float = 0.0
    device: float = 0.0


@contextmanager
def clocked(engine: EngineParams) -> Iterator[Spent]:
    """Time a block in which `engine` samples.

    On a CPU, device time is what the processors spent on this process and those below it, such as
    vLLM's: on a machine that others use too, it is what can be compared. A GPU, or a server
    elsewhere, is held for as long as the block takes, so there it is the wall time.
    """
    own_cpu = engine.device == "cpu" and engine.name != "server"
    clock = _processor_seconds if own_cpu else time.perf_counter
    spent = Spent()
    device, wall = clock(), time.perf_counter()
    yield spent
    spent.wall = time.perf_counter() - wall
    spent.device = clock() - device


def _processor_seconds() -> float:
    """Processor time of this process, as exact as there is, and of all below it [s]."""
    total = time.process_time()
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
