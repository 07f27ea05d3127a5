"""Step `report`: the page and the numbers of an experiment, from its artifacts alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.lineage import Lineage, code_version, package_versions
from tasks.report_page import ReportData, SampleNode, SampleTree, render
from tasks.responses import read_answers
from tasks.steps import Job, Metrics, Step
from tasks.tables import read_advantages, read_forest, read_scores
from tasks.workspace import METRICS, REPORT, evaluation, of_iteration
from treepo.evaluation import summarize
from treepo.forest import Forest
from treepo.loading import describe
from treepo.models import load_tokenizer
from treepo.params import ExperimentParams
from treepo.schemas import check_evaluation
from treepo.storage import read_table, write_text

SHOWN_TREES = 3
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
    if last:
        parts = ("forest", "scores", "advantages")
        names += [of_iteration(last, f"{part}.parquet") for part in parts]
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
            **summarize(read_table(path, check_evaluation), job.params.seed),
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
        settings=[(e.key, _plain(e.value), e.description) for e in describe(params)],
        trees=sample_trees(job, params) if history else [],
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
    """Content of metrics.json (DESIGN section 10).

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


def sample_trees(job: Job, params: ExperimentParams) -> list[SampleTree]:
    """A few trees of the last iteration, those that were learned from first."""
    k = job.iteration
    names = [of_iteration(k, f"{part}.parquet") for part in ("forest", "scores", "advantages")]
    forest_file, scores_file, advantages_file = (job.inputs[name] for name in names)
    forest = read_forest(forest_file)
    scores = read_scores(scores_file, forest)
    advantages = read_advantages(advantages_file, forest)
    learned = np.bincount(
        forest.tree[advantages.row], np.abs(advantages.value), minlength=forest.trees
    )
    tokenizer = load_tokenizer(params.model)
    texts = tokenizer.batch_decode([forest.node_tokens(row) for row in range(len(forest))])
    reward = np.full(len(forest), np.nan)
    reward[forest.leaves] = scores["reward"].to_numpy()
    through = np.bincount(advantages.row, advantages.value, minlength=len(forest))
    mean = through / forest.leaf_counts

    def node(row: int) -> SampleNode:
        inner = forest.parent[row] >= 0
        return SampleNode(
            text=texts[row],
            advantage=float(mean[row]) if inner else None,
            logprob=float(_span(forest, row).mean()) if forest.sampled[row] else None,
            leaves=int(forest.leaf_counts[row]),
            finish=forest.finish[row],
            reward=None if np.isnan(reward[row]) else float(reward[row]),
            children=tuple(node(int(child)) for child in np.flatnonzero(forest.parent_row == row)),
        )

    answers = read_answers(job.inputs["data"] / "train.parquet")
    chosen = np.argsort(learned == 0, kind="stable")[:SHOWN_TREES]
    roots = [int(forest.tree_start[tree]) for tree in chosen]
    return [
        SampleTree(
            f"iteration {k}, {forest.prompt_id[root]}", answers[forest.prompt_id[root]], node(root)
        )
        for root in roots
    ]


def _span(forest: Forest, row: int) -> np.ndarray:
    return forest.logprobs[forest.offsets[row] : forest.offsets[row + 1]]


def _plain(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


REPORT_STEP = Step(
    name="report",
    description="the page and the numbers",
    inputs=lambda _: (),
    outputs=lambda _: (REPORT, METRICS),
    reads=READ,
    run=run,
    view=True,
)
