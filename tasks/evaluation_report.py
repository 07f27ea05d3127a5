"""Step `summarize`: the numbers and the page of an evaluation, alone or compared with another."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.benchmarks import DATA, PROBLEMS, RESPOND, RESPONSES
from tasks.lineage import Lineage
from tasks.provenance import code_version, package_versions
from tasks.report import plain
from tasks.report_page import Against, EvaluationData, render_evaluation
from tasks.steps import Job, Metrics, Step, is_foreign
from tasks.workspace import METRICS, REPORT, Workspace
from treepo.errors import UserError
from treepo.evaluation import OVERALL, by_benchmark, compare
from treepo.loading import describe
from treepo.params import BenchmarkRunParams
from treepo.schemas import check_evaluation, check_problems
from treepo.storage import read_table, write_text

READ = tuple(name for name in BenchmarkRunParams.model_fields if name != "seed")


def summarize_step(workspace: Workspace, against: str | None) -> Step:
    """The step, with the evaluation `against` among its inputs.

    Raises UserError where that one has no responses.
    """
    if against is None:
        return SUMMARIZE
    folder = workspace.root.parent
    if not (folder / against / RESPONSES).is_file():
        made = sorted(path.parent.name for path in folder.glob(f"*/{RESPONSES}"))
        raise UserError(
            f"--against {against}: no finished evaluation of that name in {folder}; "
            f"there are: {', '.join(made) or 'none'}"
        )
    return replace(SUMMARIZE, inputs=lambda _: (RESPONSES, DATA, f"../{against}/{RESPONSES}"))


def observe(lineage: Lineage) -> dict[str, Any]:
    """Measured values that the page shows: time of sampling and grading, versions, hashes."""
    batches = [record for record in lineage if record.step == RESPOND.name]
    inputs = next((record.inputs for record in batches), {})
    return {
        "wall": sum(record.seconds for record in batches),
        "device": sum(record.metrics["device_seconds"] for record in batches),
        "hashes": {**inputs, **{r.artifact: r.hash for r in lineage if r.artifact == RESPONSES}},
        "packages": {**code_version(), **package_versions()},
    }


def run(job: Job) -> Metrics:
    """Write index.html and metrics.json."""
    params = BenchmarkRunParams.model_validate(job.params.values())
    table = read_table(job.inputs[RESPONSES], check_evaluation)
    problems = read_table(job.inputs[DATA] / PROBLEMS, check_problems)
    filtered = json.loads((job.inputs[DATA] / "filtered.json").read_text())
    figures = by_benchmark(table, params.seed, params.evaluation.k)
    page = EvaluationData(
        name=job.outputs[REPORT].parent.parent.name,
        description=params.description,
        policy=params.policy,
        figures=figures,
        wall=job.observed["wall"],
        device=job.observed["device"],
        filtered=Counter(row["reason"] for row in filtered),
        against=_against(job, params, table, problems),
        settings=[(e.key, plain(e.value), e.description) for e in describe(params)],
        lineage=[
            *job.observed["packages"].items(),
            *((f"hash of {name}", digest) for name, digest in job.observed["hashes"].items()),
        ],
    )
    write_text(json.dumps(_metrics(page), indent=1) + "\n", job.outputs[METRICS])
    write_text(render_evaluation(page), job.outputs[REPORT])
    return figures[OVERALL]


def _against(
    job: Job, params: BenchmarkRunParams, table: pa.Table, problems: pa.Table
) -> Against | None:
    other = next((name for name in job.inputs if is_foreign(name)), None)
    if other is None:
        return None
    before = read_table(job.inputs[other], check_evaluation)
    compared, flips = compare(before, table, params.seed)
    columns = (problems[name].to_pylist() for name in ("prompt_id", "problem"))
    return Against(
        name=Path(other).parent.name,
        figures=by_benchmark(before, params.seed, params.evaluation.k),
        compared=compared,
        flips=flips,
        problems=dict(zip(*columns, strict=True)),
    )


def _metrics(data: EvaluationData) -> dict[str, Any]:
    """Content of metrics.json."""
    metrics: dict[str, Any] = {
        "evaluation": data.name,
        "policy": data.policy,
        "benchmarks": {name: row for name, row in data.figures.items() if name != OVERALL},
        OVERALL: data.figures[OVERALL],
        "wall_seconds": data.wall,
        "device_seconds": data.device,
    }
    if data.against:
        metrics["against"] = {
            "evaluation": data.against.name,
            "benchmarks": {
                name: {**asdict(row), "difference": row.difference}
                for name, row in data.against.compared.items()
            },
            "flips": [asdict(flip) for flip in data.against.flips],
        }
    return metrics


SUMMARIZE = Step(
    name="summarize",
    description="the numbers and the page of an evaluation",
    inputs=lambda _: (RESPONSES, DATA),
    outputs=lambda _: (REPORT, METRICS),
    reads=READ,
    run=run,
    view=True,
    params=BenchmarkRunParams,
    observe=observe,
)
