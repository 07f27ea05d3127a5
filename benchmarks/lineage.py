"""What a long run costs to look at: a synthetic run directory of 500 iterations.

One iteration of the smoke experiment is made and copied file by file under the names of the others,
with a line of lineage each. Timed, each in a fresh process and apart from interpreter start and
imports: finding out where a resumed run goes on, with and without remembered hashes; `treepo
lineage` of the last policy and of the report; `treepo diff` with itself; the report.
Usage: python benchmarks/lineage.py [--iterations 500] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from tasks.lineage import FILE, Record
from tasks.run import EXPERIMENT, ITERATION, opened, perform
from tasks.steps import RunParams
from tasks.workspace import Workspace, evaluation
from treepo.seeds import derive

ROOT = Path(__file__).parents[1]
MEASURE = """
import io, json, sys, time
from contextlib import redirect_stdout
from pathlib import Path
what, runs, root, iterations = sys.argv[1:]
runs, iterations = Path(runs), int(iterations)
if what in ("resume", "report"):
    from tasks.run import EXPERIMENT, ITERATION, opened, perform, standing
    from tasks.workspace import Workspace
    space = Workspace(runs, "smoke")
    params = EXPERIMENT.resolve(space, [f"iterations={iterations}"], Path(root) / "params")
else:
    from flows.ancestry import show_difference, show_lineage
started, spent = time.perf_counter(), time.process_time()
if what == "resume":
    with opened(space, params) as context:
        steps = [("prepare", 0), ("warm_up", 0), ("evaluate", 0)]
        steps += [(s.name, k) for k in range(1, iterations + 1) for s in ITERATION]
        missing = next((step for step in steps if not standing(step[0], context, step[1])), None)
    assert missing == ("rollout", iterations), missing
elif what == "report":
    with opened(space, params) as context:
        assert perform("report", context, 0).fresh
else:
    with redirect_stdout(io.StringIO()):
        if what == "diff":
            show_difference("smoke", "smoke", runs)
        else:
            show_lineage(runs / "smoke" / what)
print(time.perf_counter() - started, time.process_time() - spent)
"""


def build(runs: Path, iterations: int) -> None:
    """A run of so many iterations, made by copying the first."""
    workspace = Workspace(runs, "smoke")
    params = EXPERIMENT.resolve(workspace, [f"iterations={iterations}"], ROOT / "params")
    with opened(workspace, params) as context:
        for name in ("resolve", "prepare", "warm_up", "evaluate"):
            perform(name, context, 0)
        for step in ITERATION:
            perform(step.name, context, 1)
        made = list(context.lineage)
    first = [record for record in made if record.iteration == 1]
    records = [record for record in made if record.iteration == 0]
    hashes = {record.artifact: record.hash for record in made}
    for k in range(1, iterations + 1):
        for record in first:
            records.append(_moved(record, k, hashes))
            source, target = (workspace.path(r.artifact) for r in (record, records[-1]))
            if k > 1:
                _copy(source, target)
    judged = next(record for record in made if record.step == "evaluate")
    inputs = {"data": hashes["data"], f"policy/{iterations:06d}": hashes["policy/000001"]}
    last = replace(judged, artifact=evaluation(iterations), iteration=iterations, inputs=inputs)
    records.append(last)
    shutil.copy(workspace.path(judged.artifact), workspace.path(last.artifact))
    _write(workspace, params, records)


def _moved(record: Record, k: int, hashes: dict[str, str]) -> Record:
    """The first iteration's record, as iteration k's."""

    def name(old: str) -> str:
        return old.replace("000001", f"{k:06d}").replace("000000", f"{k - 1:06d}")

    inputs = {name(old): digest for old, digest in record.inputs.items()}
    before = f"policy/{k - 1:06d}"
    if before in inputs and k > 1:
        inputs[before] = hashes["policy/000001"]
    return replace(record, artifact=name(record.artifact), iteration=k, inputs=inputs)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _write(workspace: Workspace, params: RunParams, records: list[Record]) -> None:
    lines = [
        asdict(replace(record, seed=derive(params.seed, record.step, record.iteration)))
        for record in records
    ]
    (workspace.root / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def measure(what: str, runs: Path, iterations: int) -> tuple[float, float]:
    """Seconds that one thing takes in a fresh process, by the clock and of the processor."""
    command = [sys.executable, "-c", MEASURE, what, str(runs), str(ROOT), str(iterations)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    wall, cpu = map(float, done.stdout.splitlines()[-1].split())
    return wall, cpu


def main() -> None:
    """Print seconds of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    last = given.iterations
    with tempfile.TemporaryDirectory() as scratch:
        runs = (given.folder or Path(scratch)) / "runs"
        if not runs.exists():
            build(runs, last)
        policy = f"policy/{last:06d}"
        figures = {"report": measure("report", runs, last)}
        for what in (policy, "report/index.html", "diff"):
            figures[what] = measure(what, runs, last)
        for gone in (policy, f"iterations/{last:06d}"):
            shutil.rmtree(runs / "smoke" / gone, ignore_errors=True)
        (runs / "smoke/.hashes").unlink(missing_ok=True)
        figures["resume, every file read"] = measure("resume", runs, last)
        figures["resume"] = measure("resume", runs, last)
    for name, (wall, cpu) in figures.items():
        print(f"{name:<28} {wall:6.2f} s by the clock, {cpu:6.2f} s of the processor", flush=True)


if __name__ == "__main__":
    main()
