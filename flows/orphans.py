"""Ends what a command that is killed would leave behind, as the Prefect server that it started.

A process of its own waits at a pipe that closes when the command is gone, by whatever death, and
then ends whoever carries the command's mark in the environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from uuid import uuid4

MARK = "TREEPO_COMMAND"
GRACE = 5.0  # between being told to end and being killed [s]

_watchers: list[subprocess.Popen[bytes]] = []


def watch() -> None:
    """What this process starts from here on ends when this process does."""
    if _watchers:
        return
    os.environ[MARK] = uuid4().hex
    watcher = subprocess.Popen(
        [sys.executable, "-I", __file__, os.environ[MARK]],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what is meant for the command's group is not meant for it
    )
    _watchers.append(watcher)


def _end(mark: str) -> None:
    """End all processes with this mark but this one."""
    import psutil

    left: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                process.terminate()
                left.append(process)
    _, left = psutil.wait_procs(left, GRACE)
    for process in left:
        with suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    sys.stdin.buffer.read()
    _end(sys.argv[1])
