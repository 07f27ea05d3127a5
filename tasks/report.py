"""Step `report`: the page and the numbers of an experiment, from its artifacts alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.lineage import Lineage
from tasks.provenance import code_version, package_versions
from tasks.report_page import ReportData, render
from tasks.report_trees import shown_iterations, shown_trees, tree_artifacts
from tasks.responses import read_answers
from tasks.steps import Job, Metrics, Step
from tasks.workspace import METRICS, REPORT, evaluation, of_iteration
from treepo.evaluation import summarize
from treepo.loading import describe
from treepo.models import load_tokenizer
from treepo.params import ExperimentParams
from treepo.schemas import check_evaluation
from treepo.storage import read_table, write_text

READ = tuple(name for name in ExperimentParams.model_fields if name != "seed")


def evaluated_policies(params: ExperimentParams) -> list[int]:
    """Iterations whose policies are evaluated: the first, the last, every n-th between."""
    every = params.evaluate_every or max(1, params.iterations)
    return sorted({*range(0, params.iterations, every), params.iterations})


def report_step(params: ExperimentParams) -> Step:
    """The report of an experiment with these parameters."""
    last = params.iterations
    names = ["data", *(evaluation(k) for k in evaluated_policies(params))]
    names += [of_iteration(k, "update.json") for k in range(1, last + 1)]
    names += [name for k in shown_iterations(last) for name in tree_artifacts(k)]
    return replace(REPORT_STEP, inputs=lambda _: tuple(names))


def observe(lineage: Lineage) -> dict[str, Any]:
    """Measured values that the report shows: seconds of each step and iteration, versions."""
    seconds: dict[str, dict[str, float]] = {}
    for record in lineage:
        if record.step not in ("report", "resolve"):
            seconds.setdefault(record.step, {})[str(record.iteration)] = record.seconds
    hashes = {
        record.artifact: record.hash for record in lineage if record.step in ("prepare", "warm_up")
    }
    return {
        "seconds": seconds,
        "hashes": hashes,
        "packages": {**code_version(), **package_versions()},
    }


def run(job: Job) -> Metrics:
    """Write index.html and metrics.json."""
    params = ExperimentParams.model_validate(job.params.values())
    history = [
        json.loads(path.read_text()) for name, path in job.inputs.items() if "update.json" in name
    ]
    seconds: Mapping[str, Mapping[str, float]] = job.observed["seconds"]
    for row in history:
        k = str(int(row["iteration"]))
        row |= {
            f"time/{step}": spent[k] for step, spent in seconds.items() if k in spent and k != "0"
        }
    evaluations = [
        {
            "iteration": float(Path(name).stem),
            **summarize(read_table(path, check_evaluation), params.seed, params.evaluation.k),
        }
        for name, path in job.inputs.items()
        if name.startswith("evaluation/")
    ]
    name = job.outputs[REPORT].parent.parent.name
    metrics = metrics_of(name, history, evaluations, seconds)
    write_text(json.dumps(metrics, indent=1) + "\n", job.outputs[METRICS])
    page = ReportData(
        experiment=name,
        description=params.description,
        metrics=metrics,
        history=history,
        evaluations=evaluations,
        settings=[(e.key, plain(e.value), e.description) for e in describe(params)],
        trees=shown_trees(
            job.inputs,
            shown_iterations(params.iterations),
            load_tokenizer(params.model),
            read_answers(job.inputs["data"] / "train.parquet"),
        ),
        lineage=[
            *job.observed["packages"].items(),
            *((f"hash of {name}", digest) for name, digest in job.observed["hashes"].items()),
        ],
    )
    write_text(render(page), job.outputs[REPORT])
    return {}


def metrics_of(
    name: str,
    history: list[dict[str, float]],
    evaluations: list[dict[str, float]],
    seconds: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Content of metrics.json.

    tokens_per_second counts the tokens of all trajectories, as a flat sampler would have to make
    them, over the rollouts' wall time; sampled_tokens_per_second counts each sampled token once.
    """
    total = {
        key: sum(row[f"rollout/{key}"] for row in history)
        for key in ("trajectories", "sampled_tokens", "trajectory_tokens")
    }
    rollout = sum(seconds.get("rollout", {}).values())
    rates = {
        "tokens_per_second": "trajectory_tokens",
        "sampled_tokens_per_second": "sampled_tokens",
        "trajectories_per_second": "trajectories",
    }
    first, last = evaluations[0], evaluations[-1]
    kept = ("accuracy", "maj@k", "pass@k", "low", "high", "tokens")
    return {
        "experiment": name,
        "iterations": len(history),
        "wall_seconds": sum(sum(spent.values()) for spent in seconds.values()),
        "initial": {key: first[key] for key in kept},
        "final": {key: last[key] for key in kept},
        "k": int(first["k"]),
        "heldout_problems": int(first["problems"]),
        **{key: int(value) for key, value in total.items()},
        **{rate: total[key] / rollout if rollout else 0.0 for rate, key in rates.items()},
    }


def plain(value: Any) -> str:
    """A parameter's value as the page shows it."""
    return json.dumps(value) if not isinstance(value, str) else value


REPORT_STEP = Step(
    name="report",
    description="the page and the numbers",
    inputs=lambda _: (),
    outputs=lambda _: (REPORT, METRICS),
    reads=READ,
    run=run,
    view=True,
    observe=observe,
)
