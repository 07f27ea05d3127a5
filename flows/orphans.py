"""Ends what a command that is killed would leave behind, as the Prefect server that it started.

A process of its own waits until the command is gone, by whatever death, and then ends what the
command has started: the programs that carry its mark in their environment, and its forks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from threading import Thread
from time import monotonic, sleep
from uuid import uuid4

import psutil

MARK = "TREEPO_COMMAND"
LOOK = 0.5  # between looks at the command [s]
GRACE = 5.0  # between being told to end and being killed [s]
PATIENCE = 30.0  # with those who start others meanwhile [s]

_watchers: list[subprocess.Popen[bytes]] = []


def watch() -> None:
    """What this process starts from here on ends when this process does."""
    if _watchers:
        return
    os.environ[MARK] = uuid4().hex
    watcher = subprocess.Popen(
        # -P: the modules beside this file are no libraries.
        [sys.executable, "-P", __file__, str(os.getpid()), os.environ[MARK]],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what is meant for the command's group is not meant for it
    )
    _watchers.append(watcher)
    os.register_at_fork(after_in_child=_tell)


def _tell() -> None:
    """A fork seems to have the environment that the command had at its start: it says who it is."""
    pipe = _watchers[0].stdin
    if pipe is not None:
        with suppress(OSError):
            os.write(pipe.fileno(), f"{os.getpid()}\n".encode())


def _listen(forks: list[psutil.Process]) -> None:
    for line in sys.stdin:
        with suppress(psutil.Error):
            forks.append(psutil.Process(int(line)))


def _left(mark: str, forks: list[psutil.Process]) -> list[psutil.Process]:
    """Living processes of the command but this one."""
    found = [*forks]
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return [process for process in found if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _end(mark: str, forks: list[psutil.Process]) -> None:
    """Tell all to end, then kill, until nobody is left."""
    began, told = monotonic(), set[psutil.Process]()
    while (left := _left(mark, forks)) and monotonic() - began < PATIENCE:
        for process in left:
            with suppress(psutil.Error):
                if monotonic() - began > GRACE:
                    process.kill()
                elif process not in told:
                    process.terminate()
                    told.add(process)
        sleep(0.1)


def main() -> None:
    """Wait for the end of the process that is named first; the second argument is its mark."""
    # What ends everybody reaches this one too, and the command may take its time.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    forks: list[psutil.Process] = []
    Thread(target=_listen, args=(forks,), daemon=True).start()
    while os.getppid() == int(sys.argv[1]):  # also where nobody takes note of its death
        sleep(LOOK)
    _end(sys.argv[2], forks)


if __name__ == "__main__":
    main()
