"""What a run takes of its machine, over one iteration: MLflow's `system/` group beside its own."""

from __future__ import annotations

import time

import psutil

MEBIBYTE = 2**20


class Machine:
    """Measures from one reading to the next; the processes that a run starts are counted in."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._seconds, self._clock = self._spent(), time.monotonic()

    def read(self) -> dict[str, float]:
        """Memory held [MiB], processors kept busy since the last reading, memory left [MiB]."""
        seconds, clock = self._spent(), time.monotonic()
        passed = max(clock - self._clock, 1e-9)
        busy = max(0.0, seconds - self._seconds) / passed
        self._seconds, self._clock = seconds, clock
        return {
            "system/run_memory_mebibytes": sum(self._memory()) / MEBIBYTE,
            "system/run_busy_processors": busy,
            "system/available_memory_mebibytes": psutil.virtual_memory().available / MEBIBYTE,
        }

    def _family(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def _memory(self) -> list[float]:
        held: list[float] = []
        for process in self._family():
            try:
                held.append(float(process.memory_info().rss))
            except psutil.Error:
                continue  # it ended in between
        return held

    def _spent(self) -> float:
        """Processor seconds so far; those of ended children are the parent's."""
        spent = 0.0
        for process in self._family():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            spent += times.user + times.system
            if process is self._process:
                spent += times.children_user + times.children_system
        return spent
