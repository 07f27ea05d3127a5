"""Step `compare` of `treepo efficiency`: medians over the rounds, as a table and as a page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.benchmarks import DATA
from tasks.efficiency import MEASURE, measurements, responses
from tasks.lineage import Lineage
from tasks.provenance import code_version, package_versions
from tasks.report import plain
from tasks.report_page import EfficiencyPage, render_efficiency
from tasks.steps import Job, Metrics, Step
from tasks.workspace import METRICS, REPORT
from treepo.efficiency import Measurement, Row, Values, accuracies, costs, scaling_points, summary
from treepo.loading import describe
from treepo.params import EfficiencyParams, SamplingParams
from treepo.schemas.efficiency import (
    EFFICIENCY_SCHEMA,
    check_arm_responses,
    check_efficiency,
    check_measurements,
)
from treepo.storage import read_table, write_table, write_text

TABLE = "report/efficiency.parquet"
READ = tuple(name for name in EfficiencyParams.model_fields if name != "seed")


def observe(lineage: Lineage) -> dict[str, Any]:
    """Measured values that the page shows: the device, versions, hashes."""
    rounds = [record for record in lineage if record.step == MEASURE.name]
    inputs = next((record.inputs for record in rounds), {})
    return {
        "device": next((record.device for record in rounds), {}),
        "hashes": {**inputs, **{record.artifact: record.hash for record in rounds}},
        "packages": {**code_version(), **package_versions()},
    }


def run(job: Job) -> Metrics:
    """Write efficiency.parquet, metrics.json and index.html."""
    params = EfficiencyParams.model_validate(job.params.values())
    rounds = [_round(job, params, number) for number in range(1, params.rounds + 1)]
    rows = summary(rounds, {name: arm.against for name, arm in params.arms.items()})
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=EFFICIENCY_SCHEMA)
    write_table(check_efficiency(table, TABLE), job.outputs[TABLE])
    metrics = _metrics(job, params, rows)
    write_text(json.dumps(metrics, indent=1) + "\n", job.outputs[METRICS])
    page = EfficiencyPage(
        name=metrics["efficiency"],
        params=params,
        problems=int(metrics["problems"]),
        rows=rows,
        filtered=Counter(row["reason"] for row in _filtered(job)),
        settings=_settings(params),
        lineage=_lineage(job.observed),
    )
    write_text(render_efficiency(page), job.outputs[REPORT])
    return _flat(metrics["arms"])


def _round(job: Job, params: EfficiencyParams, number: int) -> dict[str, Values]:
    """What each arm came to in one round."""
    measured = read_table(job.inputs[measurements(number)], check_measurements)
    graded = read_table(job.inputs[responses(number)], check_arm_responses)
    curved = {arm for c in params.comparisons.values() if "scaling" in c.shows for arm in c.arms}
    found: dict[str, Values] = {}
    for row in measured.to_pylist():
        one = Measurement(**row)
        own = graded.filter(pc.equal(graded["arm"], one.arm))
        named = {**costs(one), **accuracies(own, params.seed, params.k)}
        values: dict[tuple[str, int | None], float] = {(n, None): v for n, v in named.items()}
        if one.arm in curved:
            for point in scaling_points(one.tokens_of_k, own, params.seed):
                values["scaling_tokens", point.k] = point.tokens
                values["scaling_accuracy", point.k] = point.accuracy
        found[one.arm] = values
    return found


def _metrics(job: Job, params: EfficiencyParams, rows: list[Row]) -> dict[str, Any]:
    """Content of metrics.json: for each arm the median of each measure, and its ratios."""
    arms: dict[str, dict[str, Any]] = {name: {} for name in params.arms}
    for row in rows:
        if row.k is None:
            arms[row.arm][row.measure] = row.median
            if row.ratio is not None:
                arms[row.arm][f"{row.measure}/{row.against}"] = row.ratio
    first = read_table(job.inputs[measurements(1)], check_measurements)
    return {
        "efficiency": job.outputs[REPORT].parent.parent.name,
        "policy": params.policy,
        "rounds": params.rounds,
        "problems": first["problems"][0].as_py(),
        "arms": arms,
    }


def _filtered(job: Job) -> list[dict[str, str]]:
    return json.loads((job.inputs[DATA] / "filtered.json").read_text())


def _settings(params: EfficiencyParams) -> list[tuple[str, str, str]]:
    """Every parameter but those of an arm's sampling that are what they are by default."""
    usual = {entry.key: entry.value for entry in describe(SamplingParams)}
    return [
        (entry.key, plain(entry.value), entry.description)
        for entry in describe(params)
        if not entry.key.startswith("arms.")
        or usual.get(entry.key.partition(".sampling.")[2], ...) != entry.value
    ]


def _lineage(observed: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        *((name, str(value)) for name, value in observed["device"].items()),
        *observed["packages"].items(),
        *((f"hash of {name}", digest) for name, digest in observed["hashes"].items()),
    ]


def _flat(arms: Mapping[str, Mapping[str, float]]) -> Metrics:
    return {f"{name}/{key}": value for name, row in arms.items() for key, value in row.items()}


def _inputs(rounds: int) -> tuple[str, ...]:
    numbers = range(1, rounds + 1)
    return (DATA, *(file for number in numbers for file in MEASURE.outputs(number)))


COMPARE = Step(
    name="compare",
    description="medians over the rounds, and the page",
    inputs=_inputs,
    outputs=lambda _: (REPORT, METRICS, TABLE),
    reads=READ,
    run=run,
    view=True,
    params=EfficiencyParams,
    observe=observe,
)
