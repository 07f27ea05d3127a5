"""Runs main.py of the current folder with its hands tied: what `treepo.scoring.code` starts.

A program of its own, which imports nothing of the library. Where tests.py is there too, it runs
after main.py and among its names; only then is the proof on standard input written back. The limits
come from the kernel: rlimits on CPU time, memory and file size; Landlock, so that only this folder
can be written and only Python can be read; nobody's rights where root has started it and Python
can be read with them, and no capabilities in any case; seccomp, so that no process, socket or
signal can be made, and nothing that outlives the program.

Standard error is for the sandbox alone: it ends with READY where all hands are tied, and otherwise
with the reason why nothing is run. The program finds it closed.
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
from collections.abc import Callable, Iterator, Sequence
from itertools import starmap
from operator import call
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

READY = "ready"
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
_CAPABILITY_VERSION = 0x20080522
NOBODY = 65534
# What root needs to become nobody, and its parent to end it and remove its files: CAP_CHOWN,
# CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_KILL, CAP_SETGID, CAP_SETUID.
_TO_BECOME_NOBODY = 0b11101011
_LINE = 3  # words of a line of _REFUSED
# How seccomp names the architectures, in the order of the columns below.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# What a user without capabilities could do to others: system calls with their numbers, - for none.
_REFUSED = """
    clone                56 220    fork              57   -    vfork             58   -
    clone3              435 435    execve            59 221    execveat         322 281
    unshare             272  97    setns            308 268    ptrace           101 117
    socket               41 198    socketpair        53 199    connect           42 203
    bind                 49 200    io_uring_setup   425 425    bpf              321 280
    perf_event_open     298 241    userfaultfd      323 282    memfd_create     319 279
    kill                 62 129    tkill            200 130    tgkill           234 131
    rt_sigqueueinfo     129 138    rt_tgsigqueueinfo 297 240   pidfd_open       434 434
    pidfd_send_signal   424 424    pidfd_getfd      438 438    process_madvise  440 440
    process_vm_readv    310 270    process_vm_writev 311 271   prlimit64        302 261
    setpriority         141 140    ioprio_set       251  30    sched_setparam   142 118
    sched_setscheduler  144 119    sched_setaffinity 203 122   sched_setattr    314 274
    migrate_pages       256 238    move_pages       279 239    mount            165  40
    shmget               29 194    msgget            68 186    semget            64 190
    mq_open             240 180    mq_unlink        241 181    add_key          248 217
    request_key         249 218    keyctl           250 219    truncate          76  45
    chmod                90   -    fchmod            91  52    fchmodat         268  53
    fchmodat2           452 452    chown             92   -    lchown            94   -
    fchown               93  55    fchownat         260  54    utime            132   -
    utimes              235   -    futimesat        261   -    utimensat        280  88
    setxattr            188   5    lsetxattr        189   6    fsetxattr        190   7
    removexattr         197  14    lremovexattr     198  15    fremovexattr     199  16
    setxattrat          463 463    removexattrat    466 466    file_setattr     469 469
"""
_Command = tuple[tuple[int, int], int, tuple[int, ...]]
# System calls that are refused some commands only: their numbers, the argument, its values there.
_REFUSED_COMMANDS: tuple[_Command, ...] = (
    ((72, 25), 1, (8, 10, 15)),  # fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX, which aim signals
    ((16, 29), 1, (0x40086602, 0x401C5820)),  # ioctl: FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR
    ((157, 167), 0, (_PR_SET_PDEATHSIG,)),  # prctl
)

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


def become_nobody() -> None:
    """Root gives itself and the current folder to the user nobody; others stay who they are.

    So does root where nobody could not read Python, where root lacks the right, and where files
    cannot be given away. Raises OSError.
    """
    if os.geteuid() != 0 or ~_capabilities() & _TO_BECOME_NOBODY or not _nobody_reads():
        return
    try:
        for name in (".", *os.listdir()):
            os.chown(name, NOBODY, NOBODY)
    except OSError:
        return
    _change_user()


def _change_user() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _nobody_reads() -> bool:
    """Whether nobody finds the current folder, and each module that root finds.

    Tried by a fork, as there may be no way back: a namespace may have no such user, or no groups.
    """
    folders = [folder for folder in sys.path if os.path.isdir(folder)]
    fork = os.fork()
    if not fork:
        try:
            _change_user()
            os.stat(os.getcwd())
            for folder in (sys.prefix, sys.base_prefix, *folders):
                for entry in os.scandir(folder):
                    way = os.R_OK | (os.X_OK if entry.is_dir() else 0)
                    if not os.access(entry, way):
                        os._exit(1)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(fork, 0)[1] == 0


def _capabilities() -> int:
    """Those in effect, of the first 32."""
    sets = ctypes.create_string_buffer(24)
    _checked(libc().capget(struct.pack("Ii", _CAPABILITY_VERSION, 0), sets))
    return struct.unpack_from("I", sets)[0]


def drop_capabilities() -> None:
    """What makes root more than any user is gone for good. Raises OSError.

    Also where root could read Python as root alone: programs that find no library would all fail.
    """
    nothing = bytes(24)
    _checked(libc().capset(struct.pack("Ii", _CAPABILITY_VERSION, 0), nothing))
    for folder in (sys.prefix, sys.base_prefix):
        os.listdir(folder)


def refuse_network() -> None:
    """Seccomp: no new sockets, of whatever kind. Raises OSError, ValueError."""
    lines = [line for line in _lines() if line[0] in ("socket", "io_uring_setup")]
    _refuse(lines, ())


def refuse_calls() -> None:
    """Seccomp: the refused system calls fail with EPERM. Raises OSError, ValueError."""
    _refuse(_lines(), _REFUSED_COMMANDS)


def _lines() -> Sequence[Sequence[str]]:
    """The lines of _REFUSED: name and numbers."""
    words = _REFUSED.split()
    return [words[at : at + _LINE] for at in range(0, len(words), _LINE)]


def _refuse(lines: Sequence[Sequence[str]], commands: tuple[_Command, ...]) -> None:
    column = list(_ARCHITECTURES).index(platform.machine())
    load, equal, above, end = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = (end, 0, 0, 0x7FFF0000), (end, 0, 0, 0x00050001), (end, 0, 0, 0x80000000)
    architecture = _ARCHITECTURES[platform.machine()]
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), kill, (load, 0, 0, 0)]
    program += [(above, 0, 1, 0x40000000), refuse]  # the x32 numbering
    for line in lines:
        if line[1 + column] != "-":
            program += [(equal, 0, 1, int(line[1 + column])), refuse]
    for numbers, argument, values in commands:
        checks = [check for value in values for check in ((equal, 0, 1, value), refuse)]
        program += [(equal, 0, len(checks) + 2, numbers[column])]
        program += [(load, 0, 0, 16 + 8 * argument), *checks, allow]
    program.append(allow)
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    _checked(libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    filters = _Instructions(len(program), code)
    _checked(libc().prctl(_PR_SET_SECCOMP, 2, ctypes.byref(filters), 0, 0))


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
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
    """Tie the hands, then run main.py as the main program. Raises OSError, ValueError."""
    readable = [sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/etc/ld.so.cache"]
    readable += ["/dev/urandom", "/dev/null", "/etc/localtime"]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    become_nobody()
    limit()  # after that, as a change of user would undo that it ends with its parent
    confine_files(os.getcwd(), readable)
    drop_capabilities()
    refuse_calls()
    # Nothing that the program does can be taken for a word of the sandbox.
    os.write(2, f"{READY}\n".encode())
    os.dup2(nowhere, 2)
    os.close(nowhere)
    refuse_introspection()
    sys.argv = [PROGRAM]
    sys.path.insert(0, os.getcwd())
    # One call in C makes all of them: while the program runs no frame, and nothing that a name
    # leads to, holds the proof, and nothing that it could replace is called after it.
    deque(starmap(call, _calls()), maxlen=0)


if __name__ == "__main__":
    main()
