"""The `code` verifier: the answer is a program that has to pass the gold answer's unit tests.

The gold answer is either Python text that follows the program (assertions), or a JSON object
{"inputs": [...], "outputs": [...]} of what the program reads from its standard input and has to
write. It knows processes and deadlines; what a program may do, `sandbox` says.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from treepo.scoring import sandbox
from treepo.scoring.answers import last_code_block
from treepo.scoring.verifiers import register

# All tests of one program, by the clock: less than a worker's own deadline [s].
SECONDS = 3.0
MAX_TESTS = 100
MAX_OUTPUT = 2**20

# Runs after the tests; only a program that came through them writes back what it could read.
_PROOF = "\nimport sys as _sys\n_sys.stdout.write('\\n' + _sys.stdin.read())\n"


@dataclass(frozen=True)
class Case:
    """One run: the text after the program, what it reads, and what it has to write at its end."""

    suffix: str
    stdin: str
    stdout: str


def cases(gold: str) -> list[Case]:
    """The runs that a gold answer asks for. Raises ValueError where it asks for none."""
    if not gold.lstrip().startswith("{"):
        compile(gold, "tests", "exec")
        proof = secrets.token_hex(16)
        return [Case(f"\n{gold}\n{_PROOF}", proof, proof)]
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
    with (
        tempfile.TemporaryDirectory(prefix="treepo-code-") as name,
        tempfile.TemporaryFile() as out,
    ):
        folder = Path(name)
        text = (program + case.suffix).encode("utf-8", "replace")
        (folder / "main.py").write_bytes(text)
        # -I: neither the environment nor the current folder decides what is imported.
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", sandbox.__file__],
            cwd=folder,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.DEVNULL,
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
        if process.returncode == sandbox.NO_SANDBOX:
            raise RuntimeError("this system has no Landlock and seccomp, so no program is run")
        out.seek(0)
        written = out.read(MAX_OUTPUT).decode("utf-8", "replace")
    return process.returncode == 0 and _agrees(written, case)


def _agrees(written: str, case: Case) -> bool:
    """The last line proves that assertions were reached; outputs agree word by word."""
    if case.suffix:
        return written.rpartition("\n")[2] == case.stdout
    return [line.split() for line in written.strip().splitlines()] == [
        line.split() for line in case.stdout.strip().splitlines()
    ]
