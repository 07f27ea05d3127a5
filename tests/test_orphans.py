"""What a command that is killed leaves behind: nothing that it started."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from flows import orphans

# Ends by the signal or by itself. Of what it started one is a fork, one takes no notice of being
# told to end, and one starts another when told.
COMMAND = f"""
import os, signal, subprocess, sys, time
from flows.orphans import watch
before = subprocess.Popen(["sleep", "300"], stdout=subprocess.DEVNULL)
watch()
watch()
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
subprocess.Popen([sys.executable, "-c", deaf])
subprocess.Popen(["bash", "-c", "trap 'sleep 299 & wait' TERM; sleep 300 & wait"])
fork = os.fork()
if not fork:
    time.sleep(300)
time.sleep(1)
print(before.pid, fork, os.environ["{orphans.MARK}"], flush=True)
if sys.argv[1] != "0":
    os.kill(os.getpid(), int(sys.argv[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, 0])
def test_what_a_command_started_ends_with_it(number: int) -> None:
    command = [sys.executable, "-c", COMMAND, str(int(number))]
    root = Path(orphans.__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as run:
        assert run.stdout is not None
        before, fork, mark = run.stdout.readline().split()
        # Whoever reads the output waits until the last process that holds it is gone.
        assert run.communicate(timeout=60) == ("", None)
    watchers = [process for process in psutil.process_iter() if _has(process, mark)]
    psutil.wait_procs(watchers, 60)
    assert not psutil.pid_exists(int(fork))
    assert not [process for process in psutil.process_iter() if _has(process, mark)]
    psutil.Process(int(before)).kill()  # what was there before is not the command's


def _has(process: psutil.Process, mark: str) -> bool:
    """In its environment or, as the watcher, its arguments."""
    with suppress(psutil.Error):
        return process.environ().get(orphans.MARK) == mark or mark in process.cmdline()
    return False
