"""The `code` verifier: the answer is a program that has to pass the gold answer's unit tests.

The gold answer is either Python text that follows the program (assertions), or a JSON object
{"inputs": [...], "outputs": [...]} of what the program reads from its standard input and has to
write. It knows processes and deadlines; what a program may do, `sandbox` says.
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from treepo.scoring import sandbox
from treepo.scoring.answers import last_code_block
from treepo.scoring.verifiers import register

# All tests of one program, by the clock: less than a worker's own deadline [s].
SECONDS = 3.0
MAX_TESTS = 100
MAX_OUTPUT = 2**20


@dataclass(frozen=True)
class Case:
    """One run: the tests after the program, what stands on standard input, what has to come back.

    With tests that is their proof, which the sandbox reads before the program runs.
    """

    tests: str
    stdin: str
    stdout: str


def cases(gold: str) -> list[Case]:
    """The runs that a gold answer asks for. Raises ValueError where it asks for none."""
    if not gold.lstrip().startswith("{"):
        compile(gold, "tests", "exec")
        proof = secrets.token_hex(sandbox.PROOF // 2)
        return [Case(gold, proof, proof)]
    tests = json.loads(gold)
    inputs, outputs = tests["inputs"], tests["outputs"]
    if not inputs or len(inputs) != len(outputs):
        raise ValueError("the tests need as many inputs as outputs, and at least one")
    return [Case("", str(i), str(o)) for i, o in zip(inputs, outputs, strict=True)][:MAX_TESTS]


def _reads(gold: str) -> bool:
    try:
        return bool(gold.strip()) and bool(cases(gold))
    except (ValueError, SyntaxError, KeyError, TypeError):
        return False


@register("code", extract=last_code_block, reads=_reads)
def code(gold: str, answer: str) -> bool:
    """Whether the program passes all tests, in a sandbox and within a few seconds.

    Raises RuntimeError where this system has no sandbox: then no program is run.
    """
    end = time.monotonic() + SECONDS
    return all(_passes(answer, case, end) for case in cases(gold))


def _passes(program: str, case: Case, end: float) -> bool:
    with _folder() as folder, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as told:
        (folder / sandbox.PROGRAM).write_bytes(program.encode("utf-8", "replace"))
        if case.tests:
            (folder / sandbox.TESTS).write_bytes(case.tests.encode("utf-8", "replace"))
        # -I: neither the environment nor the current folder decides what is imported.
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", sandbox.__file__],
            cwd=folder,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=told,
            start_new_session=True,
        )
        try:
            process.communicate(
                case.stdin.encode("utf-8", "replace"), max(0.0, end - time.monotonic())
            )
        except subprocess.TimeoutExpired:
            return False
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        told.seek(0)
        last = ["", *told.read().decode("utf-8", "replace").splitlines()][-1]
        if last != sandbox.READY:
            reason = last or f"exit code {process.returncode}"
            raise RuntimeError(f"this system has no sandbox, so no program is run ({reason})")
        out.seek(0)
        written = out.read(MAX_OUTPUT).decode("utf-8", "replace")
    return process.returncode == 0 and _agrees(written, case)


@contextmanager
def _folder() -> Generator[Path]:
    """A folder for one run, which goes whatever the program made of it."""
    folder = Path(tempfile.mkdtemp(prefix="treepo-code-"))
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder of any depth: more than recursion, open files or a path's length allow.

    What is below goes up to the top, until nothing is below. Nobody else writes there any more.
    """
    names = (f"{secrets.token_hex(16)}-{number}" for number in itertools.count())
    top = os.open(folder, os.O_RDONLY)
    try:
        _empty(top, top, names)
        while found := os.listdir(top):
            for name in found:
                below = os.open(name, os.O_RDONLY, dir_fd=top)
                try:
                    _empty(below, top, names)
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    folder.rmdir()


def _empty(folder: int, top: int, names: Iterator[str]) -> None:
    """Remove the files of an open folder, and move its folders to `top` under new names."""
    for entry in list(os.scandir(folder)):
        if entry.is_dir(follow_symlinks=False):
            os.chmod(entry.name, stat.S_IRWXU, dir_fd=folder)  # as it may have been made without
            os.rename(entry.name, next(names), src_dir_fd=folder, dst_dir_fd=top)
        else:
            os.unlink(entry.name, dir_fd=folder)


def _agrees(written: str, case: Case) -> bool:
    """The proof of tests stands among whatever else was written; outputs agree word by word."""
    if case.tests:
        return case.stdout in written
    return [line.split() for line in written.strip().splitlines()] == [
        line.split() for line in case.stdout.strip().splitlines()
    ]
