"""Runs main.py of the current folder with its hands tied: what `treepo.scoring.code` starts.

A program of its own, which imports nothing of the library. Where tests.py is there too, it runs
after main.py and among its names; only then is the proof on standard input written back. The limits
come from the kernel: rlimits on CPU time, memory and file size; Landlock, so that only this folder
can be written and only Python can be read; seccomp, so that no process, socket or signal can be
made. Where the kernel lacks one of them nothing is run, and the exit code is NO_SANDBOX.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import starmap
from operator import call
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

NO_SANDBOX = 97
PROGRAM, TESTS = "main.py", "tests.py"
PROOF = 32  # bytes
CPU_SECONDS = 2
MEMORY = 2**30
FILE_SIZE = 2**20
OPEN_FILES = 64

# Landlock system calls have the same numbers everywhere.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ = 0b1100  # read a file, list a folder
_ALL_OF_FIRST_ABI = (1 << 13) - 1
_PATH_BENEATH = 1
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
# What is refused: the architecture as seccomp names it, then system calls with their numbers.
_REFUSED = {
    "x86_64": (
        0xC000003E,
        """
        clone 56  fork 57  vfork 58  execve 59  clone3 435  execveat 322  socket 41  socketpair 53
        connect 42  bind 49  io_uring_setup 425  kill 62  tkill 200  tgkill 234  rt_sigqueueinfo 129
        pidfd_open 434  pidfd_send_signal 424  ptrace 101  process_vm_writev 311  prlimit64 302
        unshare 272  setns 308  mount 165  bpf 321  keyctl 250  perf_event_open 298  userfaultfd 323
        setpriority 141  memfd_create 319  truncate 76  chmod 90  fchmod 91  fchmodat 268  chown 92
        fchown 93  utime 132  utimes 235  utimensat 280  lchown 94  fchownat 260  setxattr 188
        """,
    ),
    "aarch64": (
        0xC00000B7,
        """
        clone 220  execve 221  clone3 435  execveat 281  io_uring_setup 425  socket 198
        socketpair 199  connect 203  bind 200  pidfd_open 434  kill 129  tkill 130  tgkill 131
        rt_sigqueueinfo 138  ptrace 117  pidfd_send_signal 424  process_vm_writev 271  prlimit64 261
        keyctl 219  unshare 97  setns 268  mount 40  bpf 280  perf_event_open 241  userfaultfd 282
        setpriority 140  memfd_create 279  fchmod 52  truncate 45  fchmodat 53  fchown 55
        fchownat 54  utimensat 88  setxattr 5
        """,
    ),
}

# Audit events of Python.
_REFUSED_EVENTS = frozenset(
    ("gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys.settrace", "sys.setprofile")
)


class _Instructions(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("code", ctypes.c_char_p))


def limit() -> None:
    """Bound CPU time, memory and files; end with the parent."""
    libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for kind, value in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def libc() -> ctypes.CDLL:
    """The C library, with errors kept."""
    return ctypes.CDLL(None, use_errno=True)


def confine_files(writable: str, readable: list[str]) -> None:
    """Landlock: write below `writable` alone, read there and below `readable`. Raises OSError."""
    ruleset_attr = struct.pack("Q", _ALL_OF_FIRST_ABI)
    ruleset = _checked(libc().syscall(_CREATE_RULESET, ruleset_attr, len(ruleset_attr), 0))
    for path, access in ((writable, _ALL_OF_FIRST_ABI), *((path, _READ) for path in readable)):
        if not os.path.exists(path):
            continue
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed = access if os.path.isdir(path) else access & 0b111
        rule = struct.pack("<Qi", allowed, folder)
        _checked(libc().syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
        os.close(folder)
    _checked(libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc().syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def refuse_calls() -> None:
    """Seccomp: the refused system calls fail with EPERM. Raises OSError, KeyError."""
    architecture, calls = _REFUSED[platform.machine()]
    load, equal, above, end = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000
    numbers = [int(number) for number in calls.split()[1::2]]
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (end, 0, 0, kill), (load, 0, 0, 0)]
    program.append((above, len(numbers) + 1, 0, 0x40000000))  # the x32 numbering
    program += [(equal, len(numbers) - row, 0, number) for row, number in enumerate(numbers)]
    program += [(end, 0, 0, allow), (end, 0, 0, refuse)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    _checked(libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    filters = _Instructions(len(program), code)
    _checked(libc().prctl(_PR_SET_SECCOMP, 2, ctypes.byref(filters), 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused by the kernel")
    return result


def refuse_introspection() -> None:
    """No looking for objects that no name leads to, and no jumps over lines. Not to be undone.

    The hook knows nothing but its own arguments, as a program could change whatever else it knew.
    """

    def hook(
        event: str,
        _: tuple[Any, ...],
        refused: frozenset[str] = _REFUSED_EVENTS,
        refusal: type[Exception] = RuntimeError,
    ) -> None:
        if event in refused:
            raise refusal

    sys.addaudithook(hook)


def _calls() -> Iterator[tuple[Callable[..., object], *tuple[Any, ...]]]:
    """The program, and where there are tests: the tests, and the proof that they returned.

    Everything is read and compiled before the program runs, and the tests are out of its reach.
    """
    program = ModuleType("__main__")
    program.__file__ = PROGRAM
    sys.modules["__main__"] = program
    names = vars(program)
    calls: list[tuple[Any, ...]] = [(exec, _compiled(PROGRAM), names)]
    if os.path.exists(TESTS):
        calls += [(exec, _compiled(TESTS), names), (os.write, 1, os.read(0, PROOF))]
        os.remove(TESTS)
    return iter(calls)


def _compiled(file: str) -> CodeType:
    return compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)


def main() -> None:
    """Tie the hands, then run main.py as the main program."""
    readable = [sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/etc/ld.so.cache"]
    readable += ["/dev/urandom", "/dev/null", "/etc/localtime"]
    try:
        limit()
        confine_files(os.getcwd(), readable)
        refuse_calls()
    except (OSError, KeyError, ValueError):
        os._exit(NO_SANDBOX)
    refuse_introspection()
    sys.argv = [PROGRAM]
    sys.path.insert(0, os.getcwd())
    # One call in C makes all of them: while the program runs no frame, and nothing that a name
    # leads to, holds the proof, and nothing that it could replace is called after it.
    deque(starmap(call, _calls()), maxlen=0)


if __name__ == "__main__":
    main()
