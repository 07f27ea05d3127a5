"""vLLM in a process of its own, seen from outside: calls with a deadline, and new attempts.

A process that died or hangs is replaced, and what it had not answered is asked again: trees keep
every segment they have. Knows calls and processes; knows neither trees nor vLLM.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any

import torch

from treepo.engines.segments import (
    GarbledSegment,
    SampledSegment,
    SegmentCall,
    TokenIds,
    check_segment,
)
from treepo.engines.vllm_worker import Setup
from treepo.engines.weight_handles import weight_handles
from treepo.errors import UserError, WorkError
from treepo.models import Policy
from treepo.params import EngineParams

WORKER = "treepo.engines.vllm_worker"
# Importing vLLM from a cold disk takes most of a minute, a large model longer [s].
START_DEADLINE = 900.0
# For a process that has closed its connection to end by itself [s].
END_DEADLINE = 10.0


class EngineLost(Exception):
    """The process died, hung or failed; the message says how."""


@dataclass(frozen=True)
class Process:
    """A started process, our end of the connection to it, and where it writes its complaints.

    scratch: its folder for temporary files, which it has no time to remove when it is ended.
    """

    handle: subprocess.Popen[bytes]
    connection: Connection
    log: IO[bytes]
    scratch: tempfile.TemporaryDirectory[str]

    def ask(self, method: str, argument: Any, deadline: float) -> Any:
        """Call a method of the worker. Raises EngineLost where no answer comes."""
        try:
            self.connection.send((method, argument))
        except OSError:
            raise EngineLost(self._death()) from None
        return self.answer(deadline)

    def answer(self, deadline: float) -> Any:
        """Wait for the answer, `deadline` seconds at most."""
        try:
            if not self.connection.poll(deadline):
                raise EngineLost(f"no sign of life for {deadline:g} s")
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            raise EngineLost(self._death()) from None
        if kind == "refused":
            raise UserError(f"engine.name: {value}")
        if kind == "failed":
            raise EngineLost(value)
        return value

    def _death(self) -> str:
        """How it ended, with the last line that it wrote."""
        with suppress(subprocess.TimeoutExpired):
            self.handle.wait(END_DEADLINE)
        self.handle.kill()
        code = self.handle.wait()
        self.log.seek(0)
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return f"its process ended with exit code {code} ({lines[-1] if lines else 'no message'})"

    def end(self) -> None:
        """End it, whatever it is doing."""
        self.connection.close()
        self.handle.kill()
        self.handle.wait()
        self.log.close()
        self.scratch.cleanup()


def start(setup: Setup) -> Process:
    """Start a worker and wait until it has opened the model.

    Raises UserError where vLLM cannot serve this model, EngineLost where it does not start.
    """
    ours, theirs = Pipe()
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by Process.end
    scratch = tempfile.TemporaryDirectory(prefix="treepo-", ignore_cleanup_errors=True)
    environment = {**os.environ, "TMPDIR": scratch.name}
    if setup.engine.threads:
        environment["OMP_NUM_THREADS"] = str(setup.engine.threads)
    handle = subprocess.Popen(
        [sys.executable, "-m", WORKER, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    theirs.close()
    process = Process(handle, ours, log, scratch)
    try:
        ours.send(setup)
        process.answer(START_DEADLINE)
    except BaseException:
        process.end()
        raise
    return process


# By `engine.vllm.transfer`: what the worker is asked so that it takes over a policy.
TRANSFERS: dict[str, Callable[[Path, Policy], tuple[str, Any]]] = {
    "files": lambda folder, _: ("load", str(folder)),
    "ipc": lambda _, policy: ("receive", weight_handles(policy.model)),
}


class VLLMProcess:
    """A segment sampler: vLLM with one policy at a time; started by the first call."""

    replicas = 1

    def __init__(self, engine: EngineParams, folder: Path, ids: TokenIds) -> None:
        self._params = engine.vllm
        self._ids = ids
        self._setup = Setup(str(folder), engine, ids.eos)
        self._open: dict[int, SegmentCall] = {}
        self._losses = 0  # in a row
        self._process: Process | None = None
        self._asleep = False

    def exchange(self, calls: Sequence[SegmentCall]) -> list[SampledSegment]:
        """Answers of open calls; see `SegmentSampler`.

        Raises UserError where vLLM cannot serve the model, WorkError after `retries` losses in a
        row.
        """
        self._make_room()
        self._open |= {call.number: call for call in calls}
        unsent = list(calls)
        while True:
            try:
                process = self._process
                if process is None:
                    process, unsent = self._started(), list(self._open.values())
                done = process.ask("advance", unsent, self._params.deadline)
                for sampled in done:
                    check_segment(self._open[sampled.number], sampled.segment, self._ids)
            except (EngineLost, GarbledSegment) as loss:
                self._count(loss)
                continue
            unsent = []
            if done:
                self._losses = 0
                for sampled in done:
                    del self._open[sampled.number]
                return done

    def load(self, folder: Path, policy: Policy) -> None:
        """Take over the weights of a policy, which are also in `folder`.

        Raises WorkError where that fails.
        """
        self._setup = replace(self._setup, folder=str(folder))
        if self._process is not None:
            self._make_room()
            try:
                self._process.ask(*TRANSFERS[self._params.transfer](folder, policy), START_DEADLINE)
            except EngineLost as loss:
                self._count(loss)

    def cancel(self) -> None:
        """Forget all open calls."""
        if self._open and self._process is not None:
            try:
                self._process.ask("cancel", list(self._open), self._params.deadline)
            except EngineLost as loss:
                self._count(loss)
        self._open = {}

    def rest(self) -> None:
        """Have vLLM give up the GPU's memory, where it is to sleep. It wakes when it is called."""
        if self._params.sleep and self._process is not None:
            try:
                self._process.ask("rest", None, START_DEADLINE)
                self._asleep = True
            except EngineLost as loss:
                self._count(loss)

    def _make_room(self) -> None:
        """Give back what torch keeps of the GPU's memory: vLLM wakes up and wants its own."""
        if self._asleep:
            torch.cuda.empty_cache()
            self._asleep = False

    def close(self) -> None:
        """End the process. The next call would start a new one."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _started(self) -> Process:
        """A new process with the current policy."""
        self._process = start(self._setup)
        return self._process

    def _count(self, loss: Exception) -> None:
        """End what is left of the process. Raises WorkError where that was once too often."""
        self.close()
        self._losses += 1
        if self._losses > self._params.retries:
            tries = "" if self._losses == 1 else f", {self._losses} times in a row"
            raise WorkError(f"engine vllm: {loss}{tries}") from loss
