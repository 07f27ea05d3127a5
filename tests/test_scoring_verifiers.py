"""The registry's verifiers: choices, patterns, several golds, user functions, tasks, programs."""

import errno
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import textwrap
import venv
from contextlib import suppress
from pathlib import Path

import pytest

from treepo.errors import UserError
from treepo.params import ScoringParams
from treepo.scoring import VERIFIERS, VerifierPool, code, multiple_choice, regex, sandbox
from treepo.scoring.answers import last_code_block
from treepo.scoring.choices import letters
from treepo.scoring.math import reads


def verdicts(verifier: str, *pairs: tuple[str, object], **others):
    with VerifierPool(ScoringParams(verifier=verifier, **others)) as pool:
        return pool.score(pairs)


def test_the_registry_holds_what_the_documentation_names():
    names = ["math", "numeric", "exact", "multiple_choice", "regex", "reasoning_gym", "code"]
    assert set(names) <= set(VERIFIERS)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("B", "B"),
        ("(b)", "B"),
        (r"\text{(B)}", "B"),
        (r"\textbf{(B) } 42", "B"),
        ("B) forty-two", "B"),
        ("B. C is wrong", "B"),
        ("option D", "D"),
        ("A, C", "AC"),
        ("A and C", "AC"),
        ("CA", "AC"),
        ("(A),(C)", "AC"),
        ("42", None),
        ("Both", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)
def test_options(text, found):
    assert letters(text) == (None if found is None else frozenset(found))


def test_multiple_choice_is_no_guess():
    assert multiple_choice("B", "(B)")
    assert not multiple_choice("B", "A, B")
    assert not multiple_choice("not an option", "not an option")


def test_regex_matches_the_whole_answer():
    assert regex(r"\d{3}", " 123 ")
    assert not regex(r"\d{3}", "1234")


def test_a_pattern_that_explodes_hits_the_deadline():
    pairs = [("(a+)+b", "\\boxed{" + "a" * 60 + "}"), ("a+", r"\boxed{aaa}"), ("(", r"\boxed{(}")]
    hung, fine, broken = verdicts("regex", *pairs, deadline=0.5)
    assert not hung.correct
    assert hung.reason == "timeout after 0.5 s"
    assert fine.correct
    assert "verifier failed" in broken.reason


def test_several_gold_answers():
    gold = json.dumps(["1/2", "2"])
    found = verdicts("math", (gold, r"\boxed{0.5}"), (gold, r"\boxed{2}"), (gold, r"\boxed{3}"))
    assert [verdict.correct for verdict in found] == [True, True, False]
    # An interval is no list of golds.
    assert verdicts("math", ("[1, 2]", r"\boxed{[1,2]}"))[0].correct


def test_a_users_function_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            """
            def half(gold, answer):
                return {"half": 0.5, "odd": 7.0}.get(answer, float(gold == answer))
            number = 3
            """
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    boxes = [("x", f"\\boxed{{{text}}}") for text in ("half", "x", "y", "odd")]
    half, right, wrong, odd = verdicts("mine:half", *boxes)
    assert (half.correct, half.score, half.reward) == (False, 0.5, 0.5)
    assert (right.correct, wrong.correct) == (True, False)
    assert "score 7 is not between 0 and 1" in odd.reason
    for name in ("mine:absent", "absent:half", "mine:number"):
        with pytest.raises(UserError, match=rf"^scoring\.verifier: {name}"):
            VerifierPool(ScoringParams(verifier=name))


ASKS = """
import socket

def asks(gold, answer):
    socket.create_connection(("127.0.0.1", int(gold)), timeout=10).close()
    return True
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are refused by Linux")
def test_a_verifier_opens_connections_only_where_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "judge_that_asks.py").write_text(ASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with socket.create_server(("127.0.0.1", 0)) as server:
        pair = (str(server.getsockname()[1]), r"\boxed{x}")
        (refused,) = verdicts("judge_that_asks:asks", pair)
        (allowed,) = verdicts("judge_that_asks:asks", pair, network=True)
    assert not refused.correct
    assert refused.reason.startswith("verifier failed: PermissionError")
    assert allowed.correct


def test_a_system_that_cannot_refuse_connections_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("treepo.scoring.worker.offline", able)
    for network in (False, True):
        with VerifierPool(ScoringParams(verifier="math", network=network)) as pool:
            assert pool.readable(["1"]) == [True]
        told = "scoring.network: this system cannot keep verifiers" in caplog.text
        assert told != network
        caplog.clear()


def able() -> bool:
    """In the place of a worker's `offline`."""
    return False


def test_reasoning_gym_scores_its_own_tasks():
    import reasoning_gym

    entry = reasoning_gym.create_dataset("countdown", size=1, seed=1)[0]
    gold = json.dumps(entry, default=str)
    numbers = entry["metadata"]["numbers"]
    pairs = [(gold, f"\\boxed{{{text}}}") for text in (entry["answer"], f"{numbers[0]}", "none")]
    with VerifierPool(ScoringParams(verifier="reasoning_gym")) as pool:
        right, number, none = pool.score(pairs)
        assert pool.readable([gold, "7", "{}"]) == [True, False, False]
    assert right.correct
    assert not number.correct
    assert not none.correct
    assert number.score < 1


@pytest.mark.parametrize(
    ("response", "boxed", "found"),
    [
        ("a\n```python\nx = 1\n```\nb", True, "x = 1\n"),
        ("```\n1\n```\n```py\n2\n```", True, "2\n"),
        ("```\n1\n```\n```py\n2", True, "1\n"),
        ("x = 1", True, None),
        ("x = 1", False, "x = 1"),
        ("```\n\n```", True, None),
        ("", False, None),
    ],
)
def test_the_last_code_block(response, boxed, found):
    assert last_code_block(response, boxed)[0] == found


ADD = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"


def test_programs_pass_their_tests():
    assert code(TESTS, ADD)
    assert not code(TESTS, ADD.replace("+", "-"))
    assert not code(TESTS, "def (")
    assert not code(TESTS, "\0")
    doubled = json.dumps({"inputs": ["1\n", "4"], "outputs": ["2\n", "8 "]})
    assert code(doubled, "print(2 * int(input()))")
    assert not code(doubled, "print(3 * int(input()))")


# Everything that Python's own means reach from a frame: names, and where gc is let, all objects.
SCAN = """
import {0}
def shown():
    frame, seen = {1}, []
    while frame:
        seen += [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]
        frame = frame.f_back
    return seen
for found in [*shown(), *(x for y in shown() if isinstance(y, (list, tuple)) for x in y)]:
    if isinstance(found, (str, bytes)) and len(found) == 32:
        print(found if isinstance(found, str) else found.decode())
        raise SystemExit(0)
print([str(x) for x in shown()])
raise SystemExit(0)
"""
JUMP = """
import sys
def jump(frame, event, _):
    if event == "line" and frame.f_code.co_filename == "tests.py":
        frame.f_lineno = 3
    return jump
sys.settrace(jump)
"""


@pytest.mark.parametrize(
    "trick",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "print(input(), end='')\nexit()",
        "import sys; sys.stdout.write(sys.stdin.read()); sys.exit(0)",
        "import os; os.write(1, os.read(0, 99)); os._exit(0)",
        "import atexit; atexit.register(lambda: print(open(0).read()))",
        "import atexit, os; atexit.register(os._exit, 0); exit()",
        # What was built in, replaced: neither the tests nor their proof go through it.
        "import builtins; builtins.exec = builtins.compile = print = lambda *_, **__: None",
        "import os; os.write = lambda to, text: os.writev(1, [text]); os.read = print",
        "import operator; operator.call = lambda *_: None",
        "import sys, io; sys.stdout = sys.stdin = io.StringIO('x')\ndef open(*_): exit()",
        "import sys; vars(sys.modules['__main__']).update(add=print, os=None, main=None)",
        "import os; os.close(1)",
        "import os; os.closerange(0, 64)",
        "import os; os.dup2(0, 1)",
        # What could be read.
        "print(open('/proc/self/environ').read()); exit()",
        "print(open('/proc/self/mem', 'rb').read(9)); exit()",
        "print(open('/proc/self/fd/0').read()); exit()",
        "print(open('tests.py').read()); exit()",
        "import gc; print(gc.get_objects()); exit()",
        "import gc, sys; print(gc.get_referents(sys._getframe(1))); exit()",
        SCAN.format("sys", "sys._getframe()"),
        SCAN.format("inspect", "inspect.currentframe()"),
        SCAN.format("sys", "list(sys._current_frames().values())[0]"),
        JUMP,
        # The end of a program that would swallow the beginning of its tests.
        "@lambda _: (lambda *_: None)",
        "_ = '''",
        "if 0: \\",
    ],
)
def test_a_program_that_does_not_come_through_its_tests_is_wrong(trick):
    checked = f"def check(add):\n    {TESTS.replace(chr(10), chr(10) + '    ')}\ncheck(add)\n''''''"
    for tests in (TESTS, checked):
        assert not code(tests, trick)
        assert not code(tests, f"{ADD.replace('+', '-')}{trick}")
        assert code(tests, ADD)


@pytest.mark.parametrize(
    "used",
    [
        "import sys; sys.stdout.write('said'); assert sys.stdin.read() == ''",
        "from collections import namedtuple; namedtuple('P', 'x y')(1, 2)",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int' = 1",
        "import pickle\nclass P: pass\npickle.loads(pickle.dumps(P()))",
        "import numpy; assert numpy.arange(3).sum() == 3",
        "import logging, typing, unittest, functools; logging.warning('x')",
        "if __name__ == '__main__': print(__file__)",
    ],
)
def test_an_honest_program_may_use_the_library(used):
    assert code(TESTS, f"{used}\n{ADD}")


@pytest.mark.parametrize(
    "act",
    [
        "import os; os.fork()",
        "import threading; threading.Thread(target=print).start()",
        "import subprocess; subprocess.run(['true'])",
        "import socket; socket.socket()",
        "import os; os.kill(os.getppid(), 9)",
        "open(OUTSIDE, 'w')",
        "import os; os.truncate(OUTSIDE, 0)",
        "import os; os.unlink(OUTSIDE)",
        "import os; os.chmod(OUTSIDE, 0o777)",
        "open(OUTSIDE).read()",
        "open('/etc/passwd').read()",
        "open('/proc/self/environ').read()",
        "bytearray(2**31)",
        "open('own', 'wb').write(bytes(2**22))",
        # Signals by way of a descriptor's owner.
        "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, -os.getpgrp())",
        "import fcntl, os, struct; fcntl.fcntl(os.pipe()[0], 15, struct.pack('ii', 2, 1))",
        "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, 9)",
        # What others read, or run on.
        "import fcntl as f; r = open(f.__spec__.origin); g = bytearray(8); "
        "f.ioctl(r, 0x80086601, g); f.ioctl(r, 0x40086602, g)",
        "import os; os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))",
        # What root may do, and ordinary users may not.
        "import time; time.clock_settime(time.CLOCK_REALTIME, time.time())",
        "import os; os.chroot('.')",
        "import os; os.setgroups([])",
        "import os; os.mknod('own', 0o20666, os.makedev(1, 1))",
    ],
)
def test_hands_are_tied(act: str, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.write_text("kept")
    caught = f"OUTSIDE = {str(outside)!r}\ntry:\n    {act}\n    ok = True\nexcept Exception:\n"
    assert not code(f"{TESTS}\nassert ok", f"{caught}    ok = False\n{ADD}")
    assert outside.read_text() == "kept"
    assert os.listdir(tmp_path) == ["outside"]


# Numbers on x86_64 and on aarch64, with arguments that do no harm where the call is let through.
@pytest.mark.parametrize(
    ("numbers", "arguments"),
    [
        pytest.param((29, 194), (0, 4096, 0o600), id="shmget"),
        pytest.param((68, 186), (0, 0o600), id="msgget"),
        pytest.param((64, 190), (0, 1, 0o600), id="semget"),
        pytest.param((240, 180), (), id="mq_open"),
        pytest.param((241, 181), (), id="mq_unlink"),
        pytest.param((297, 240), (), id="rt_tgsigqueueinfo"),
        pytest.param((129, 138), (), id="rt_sigqueueinfo"),
        pytest.param((424, 424), (-1,), id="pidfd_send_signal"),
        pytest.param((438, 438), (-1,), id="pidfd_getfd"),
        pytest.param((310, 270), (), id="process_vm_readv"),
        pytest.param((248, 217), (), id="add_key"),
        pytest.param((251, 30), (-1, -1), id="ioprio_set"),
        pytest.param((144, 119), (-1,), id="sched_setscheduler"),
        pytest.param((452, 452), (-1,), id="fchmodat2"),
        pytest.param((190, 7), (-1,), id="fsetxattr"),
        pytest.param((157, 167), (1, 0), id="prctl(PR_SET_PDEATHSIG)"),
    ],
)
def test_system_calls_that_are_refused(numbers: tuple[int, int], arguments: tuple[int, ...]):
    number = numbers[["x86_64", "aarch64"].index(platform.machine())]
    call = f"libc.syscall({', '.join(map(str, (number, *arguments)))}), ctypes.get_errno()"
    program = f"import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfound = {call}\n{ADD}"
    assert code(f"{TESTS}\nassert found == (-1, {errno.EPERM}), found", program)


def test_no_capability_is_left():
    program = """
import ctypes, struct
header, sets = struct.pack("Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
assert ctypes.CDLL(None).capget(header, sets) == 0
"""
    assert code(f"{TESTS}\nassert sets.raw == bytes(24)", f"{program}{ADD}")


def python_of_all() -> str | None:
    """A Python that every user can read."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        check = "import os, sys; assert sys.version_info >= (3, 11); os.listdir(sys.prefix)"
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run([python, "-I", "-c", check], user=sandbox.NOBODY, check=True)
            return python
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_roots_programs_are_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    python = python_of_all()
    if python is None:
        pytest.skip("no Python here that the user nobody can read")
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        os.chmod(parent, 0o711)
        monkeypatch.setattr(tempfile, "tempdir", parent)
        monkeypatch.setattr(sys, "executable", python)
        who = "(*os.getresuid(), *os.getresgid(), os.getgroups())"
        program = f"import os\nos.makedirs('a/b')\nopen('a/b/c', 'x')\nwho = {who}\n{ADD}"
        assert code(f"{TESTS}\nassert who == (*[{sandbox.NOBODY}] * 6, []), who", program)
        # It still ends with whoever started it, and what it made is gone.
        assert not code(TESTS, "while True: pass")
        assert os.listdir(parent) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_roots_programs_stay_roots_where_nobody_would_lack_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    python = python_of_all()
    if python is None:
        pytest.skip("no Python here that the user nobody can read")
    with tempfile.TemporaryDirectory(dir="/tmp") as parent:
        os.chmod(parent, 0o711)
        monkeypatch.setattr(tempfile, "tempdir", parent)
        home = Path(parent, "home")
        subprocess.run([python, "-m", "venv", "--without-pip", home], check=True)
        monkeypatch.setattr(sys, "executable", str(home / "bin" / "python"))
        (module,) = (packages / "ours.py" for packages in home.glob("lib/*/site-packages"))
        module.write_text("")
        program = f"import os, ours\nwho = os.geteuid()\n{ADD}"
        assert code(f"{TESTS}\nassert who == {sandbox.NOBODY}", program)
        module.chmod(0o600)
        assert code(f"{TESTS}\nassert who == 0", program)


def test_programs_are_judged_where_root_has_no_other_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    namespace = ["unshare", "--user", "--map-root-user"]
    if subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("this machine allows no namespace of users")
    inside = tmp_path / "python"
    inside.write_text(f'#!/bin/sh\nexec {" ".join(namespace)} {sys.executable} "$@"\n')
    inside.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(inside))
    assert code(TESTS, ADD)
    assert not code(TESTS, "def add(a, b): return a")


@pytest.mark.parametrize("way", ["os._exit({})", "os.write(2, b'refused\\n')", "os.close(2)"])
def test_no_program_passes_for_a_system_without_a_sandbox(way: str):
    for number in (1, 97):
        assert not code(TESTS, f"import os; {way.format(number)}; os._exit({number})")


def test_without_a_sandbox_no_program_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lacking = Path(sandbox.__file__).read_text().replace("= 444,", "= 9999,")
    (tmp_path / "lacking.py").write_text(lacking)
    monkeypatch.setattr(sandbox, "__file__", str(tmp_path / "lacking.py"))
    with pytest.raises(RuntimeError, match=r"no program is run \(OSError: .*not implemented\)"):
        code(TESTS, ADD)


def test_a_python_of_another_user_alone_is_no_fault_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "python"
    venv.create(home, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(home / "bin" / "python"))
    home.chmod(0o700)
    assert code(TESTS, ADD)
    if os.geteuid() == 0:  # nobody else has ways into the folder that the program lacks
        os.chown(home, 65534, 65534)
        with pytest.raises(RuntimeError, match=r"no program is run \(PermissionError: .*python"):
            code(TESTS, ADD)


@pytest.mark.parametrize(
    "made",
    [
        "for _ in range(3000): os.mkdir('x'); os.chdir('x')",
        "os.mkdir('x'); os.mkdir('x/y'); os.mkdir('x/y/z', 0); open('x/y/file', 'w')",
        "os.mkdir('x'); os.symlink('..', 'x/up'); os.symlink(OUTSIDE, 'out')",
    ],
)
def test_nothing_stays_of_a_programs_folder(
    made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    outside, runs = tmp_path / "outside", tmp_path / "runs"
    (outside / "kept").mkdir(parents=True)
    runs.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(runs))
    assert code(TESTS, f"import os\nOUTSIDE = {str(outside)!r}\n{made}\n{ADD}")
    assert os.listdir(runs) == []
    assert os.listdir(outside) == ["kept"]


def test_a_program_may_write_in_its_own_folder():
    assert code(f"{TESTS}\nassert open('own').read() == 'x'", f"open('own', 'w').write('x')\n{ADD}")


@pytest.mark.slow
def test_programs_that_hang_or_flood_end_in_time():
    programs = ["while True: pass", "import time; time.sleep(99)", "while True: print('x' * 1000)"]
    found = verdicts("code", *[(TESTS, f"```python\n{text}\n```") for text in [*programs, ADD]])
    assert [verdict.correct for verdict in found] == [False, False, False, True]


def test_golds_that_can_be_read():
    for gold in ("5", r"\frac{a}{b}", "(1,2]", r"\text{Monday}", r"x \ge 5", r"\{1,2\}", "1, 2"):
        assert reads(gold), gold
    for gold in ("", "  ", "9" * 5000, "10^{10^{10}}", r"\frac{}{}", "???"):
        assert not reads(gold), gold
    for verifier, good, bad in (
        ("numeric", "1,000", "many"),
        ("multiple_choice", "C", "the third"),
        ("regex", "a+", "("),
        ("code", TESTS, "assert ("),
        ("exact", "x", " "),
    ):
        with VerifierPool(ScoringParams(verifier=verifier)) as pool:
            assert pool.readable([good, bad, json.dumps([good, bad])]) == [True, False, False]
