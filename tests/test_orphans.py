"""What a command that is killed leaves behind: nothing that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows import orphans

# Starts two processes, one of which will not be told, and ends by the signal or by itself.
COMMAND = f"""
import os, signal, subprocess, sys
from flows.orphans import watch
before = subprocess.Popen(["sleep", "300"])
watch()
watch()
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
started = [subprocess.Popen(["sleep", "300"]), subprocess.Popen([sys.executable, "-c", deaf])]
print(before.pid, *(one.pid for one in started), os.environ["{orphans.MARK}"], flush=True)
if sys.argv[1] != "0":
    os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, 0])
def test_what_a_command_started_ends_with_it(number: int) -> None:
    command = [sys.executable, "-c", COMMAND, str(int(number))]
    root = Path(orphans.__file__).parents[1]
    # Whoever reads the output waits until the last process that holds it is gone.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as run:
        assert run.stdout is not None
        before, *started, mark = run.stdout.readline().split()
        psutil.wait_procs([psutil.Process(run.pid)], 60)
        watchers = [
            process
            for process in psutil.process_iter(["cmdline"])
            if mark in (process.info["cmdline"] or [])
        ]
        left = [process for pid in started if (process := _process(int(pid)))]
        _, alive = psutil.wait_procs([*left, *watchers], 60)
        assert not alive
        kept = _process(int(before))
        assert kept  # what was there before is not the command's
        os.kill(kept.pid, signal.SIGKILL)


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
