"""What runs in a verifier process: its limits, and one chunk of verifications.

It knows verifiers only as functions that it is handed. It must import nothing heavy but the
verifier: see `context`.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import parent_process
from pathlib import Path

from treepo.scoring.sandbox import refuse_network
from treepo.scoring.verifiers import Judge

# Address space that a worker may take beyond what it starts with [bytes].
MEMORY = 2 * 2**30
# What a verifier may take by the clock, in multiples of the CPU time that it may take.
IDLE = 4.0
ALARMS = (signal.SIGPROF, signal.SIGALRM)
_PRELOAD = "treepo.scoring.preload"
_MAIN_LOCK = threading.Lock()

# A score in [0, 1], and why there is none.
Outcome = tuple[float, str]


class _Process(ForkServerProcess):
    """A worker process that does not import its parent's main module.

    That module is a command line or a training script; it would bring torch with it.
    """

    def start(self) -> None:
        with _main_not_imported():
            super().start()


class _Context(ForkServerContext):
    Process = _Process


@contextmanager
def _main_not_imported() -> Generator[None]:
    """Make multiprocessing take the main module for one that it never imports again.

    It skips packages' `__main__` modules by the name in their spec; only it reads that name.
    """
    main = sys.modules["__main__"]
    with _MAIN_LOCK:
        spec = main.__spec__
        main.__spec__ = ModuleSpec("treepo.__main__", None)
        try:
            yield
        finally:
            main.__spec__ = spec


def context() -> ForkServerContext:
    """How workers start: as forks of a clean server process, which has the parsers loaded.

    Never as forks of this process, whose torch threads a fork would leave locked. The server
    makes a worker that replaces a killed one start in milliseconds instead of seconds.
    """
    made = _Context()
    made.set_forkserver_preload([_PRELOAD])
    return made


def start(network: bool) -> None:
    """Initializer of a worker: no interrupts from the keyboard, bounded memory, no afterlife.

    And no connections unless they are allowed, where the system can refuse them (see `offline`).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for alarm in ALARMS:
        signal.signal(alarm, signal.SIG_DFL)
    # Free where the server has it; a server that somebody else started has not.
    import_module(_PRELOAD)
    with suppress(OSError, ValueError):
        limit = _address_space() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not network and sys.platform == "linux":
        with suppress(OSError, ValueError):
            refuse_network()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this process when the one that asked for it is gone, by whatever death.

    A verifier deep in a C function holds this thread up; then the alarm of `verify` ends both. The
    fork server ends with the last of its workers.
    """
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _address_space() -> int:
    """Address space in use [bytes]; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * resource.getpagesize()


def offline() -> bool:
    """Whether this worker can open no connection. That it returns shows that workers start."""
    try:
        socket.socket().close()
    except OSError:
        return True
    return False


def verify(
    judge: Judge, load: Callable[[], None], pairs: Sequence[tuple[str, str]], patience: float
) -> list[Outcome]:
    """Scores of (gold, answer) pairs, and why where the verifier failed.

    patience: longest time for one pair [CPU s], and `IDLE` times as much by the clock. An alarm
    that nobody catches ends the process then, also out of the depths of a C function that lets no
    Python code run.
    """
    load()
    outcomes: list[Outcome] = []
    for gold, answer in pairs:
        # CPU time, so that a busy machine does not change a verdict.
        signal.setitimer(signal.ITIMER_PROF, patience)
        signal.setitimer(signal.ITIMER_REAL, IDLE * patience)
        try:
            outcomes.append((_score(judge(gold, answer)), ""))
        except Exception as error:
            outcomes.append((0.0, f"verifier failed: {type(error).__name__}: {error}"[:200]))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    return outcomes


def _score(found: float) -> float:
    score = float(found)
    if not 0 <= score <= 1:
        raise ValueError(f"the verifier's score {score:g} is not between 0 and 1")
    return score
