"""Steps of `treepo evaluate`: a policy's graded responses to the problems of its benchmarks.

policy -> problems -> respond (a batch at a time) -> collect. A batch is an artifact of its own, so
that a stopped evaluation goes on where it stood; the same batches give the same bytes.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pyarrow as pa

from tasks.evaluate import respond
from tasks.lineage import FILE, Lineage
from tasks.steps import Job, Metrics, Step
from tasks.workspace import TRAIN, Workspace, policy
from treepo.data import benchmark_files, read_benchmark
from treepo.data.overlap import Overlap
from treepo.errors import UserError
from treepo.models import initial_policy, load_tokenizer, save_policy
from treepo.params import BenchmarkRunParams, ModelParams
from treepo.schemas import check_evaluation, check_problems
from treepo.seeds import derive
from treepo.storage import read_table, write_table, write_text

POLICY, DATA, RESPONSES = "policy", "data", "responses.parquet"
PROBLEMS, OVERLAP = "problems.parquet", "overlap.json"
LAST = "last"
_POLICY = re.compile(r"policy/\d+")


def batch_file(number: int) -> str:
    """The graded responses of one batch of problems."""
    return f"batches/{number:06d}.parquet"


def policy_artifact(source: str, workspace: Workspace) -> str:
    """The artifact that holds the policy: `RUN@K` lies where its experiment made it.

    Raises UserError where RUN is no experiment or has no such policy.
    """
    if (Path(source) / FILE).is_file():
        raise UserError(f"policy: {source} is a whole experiment; say which policy: {source}@last")
    run, at, number = source.rpartition("@")
    if not at or Path(source).is_dir():
        return POLICY
    folder = Path(run).expanduser().resolve()
    made = [record.artifact for record in Lineage(folder) if _POLICY.fullmatch(record.artifact)]
    if not made:
        raise UserError(f"policy: {source}: {run} is no experiment that has made a policy")
    wanted = max(made) if number == LAST else policy(int(number) if number.isdigit() else -1)
    if wanted not in made:
        raise UserError(f"policy: {source}: no such policy; {run} has {len(made)}, from @0 on")
    return os.path.relpath(folder / wanted, workspace.root.resolve())


def training_data(source: str, workspace: Workspace) -> tuple[str, ...]:
    """The artifact with what policy RUN@K was trained on; nothing for other policies."""
    folder = Path(source.rpartition("@")[0]).expanduser().resolve()
    if policy_artifact(source, workspace) == POLICY or Lineage(folder).get("data") is None:
        return ()
    return (os.path.relpath(folder / "data", workspace.root.resolve()),)


def run_policy(job: Job) -> Metrics:
    """Write the policy of a folder or of the hub, as all policies are written."""
    source = ModelParams(source=job.params.policy)
    save_policy(initial_policy(source, job.seed, "policy"), job.output)
    return {}


def run_problems(job: Job) -> Metrics:
    """Write problems.parquet, all benchmarks one after the other, filtered and overlap.json."""
    folder, *trained = job.inputs.values()
    tokenizer = load_tokenizer(ModelParams(source=str(folder)))
    pool = job.resources.verifier(job.params.scoring)
    tables: list[pa.Table] = []
    filtered: list[dict[str, object]] = []
    for name, benchmark in job.params.benchmarks.items():
        table, left_out = read_benchmark(
            name, benchmark, job.params.mirrors, tokenizer, pool.readable
        )
        tables.append(table)
        filtered += left_out
    job.output.mkdir()
    table = check_problems(pa.concat_tables(tables), f"{DATA}/{PROBLEMS}")
    write_table(table, job.output / PROBLEMS)
    write_text(json.dumps(filtered, indent=1), job.output / "filtered.json")
    known = [seen for data in trained for seen in _overlap(table, data, job.params.overlap_ngram)]
    write_text(json.dumps(known, indent=1), job.output / OVERLAP)
    counts = {"problems": table.num_rows, "filtered": len(filtered), "overlap": len(known)}
    return {name: float(count) for name, count in counts.items()}


def _overlap(problems: pa.Table, data: Path, ngram: int) -> list[dict[str, str]]:
    """The problems that the policy saw in training, or near copies of; they stay, and are told."""
    train = read_table(data / Path(TRAIN).name, check_problems)
    seen = Overlap(train["problem"].to_pylist(), ngram)
    columns = (problems[name].to_pylist() for name in ("family", "prompt_id", "problem"))
    return [
        {"benchmark": benchmark, "prompt_id": prompt, "kind": kind}
        for benchmark, prompt, problem in zip(*columns, strict=True)
        if (kind := seen.kind(problem))
    ]


def run_respond(job: Job) -> Metrics:
    """Write the graded responses of one batch."""
    folder, data = job.inputs.values()
    problems = read_table(data / PROBLEMS, check_problems)
    batch = batches(problems, job.params.batch)[job.iteration]
    # Not the step's own seed: a problem draws the same numbers in whatever batch it is.
    table, seconds = respond(job, folder, batch, derive(job.params.seed, RESPOND.name))
    write_table(check_evaluation(table, batch_file(job.iteration)), job.output)
    return {"device_seconds": seconds}


def run_collect(job: Job) -> Metrics:
    """Write all responses as one table."""
    tables = [read_table(path, check_evaluation) for path in job.inputs.values()]
    write_table(check_evaluation(pa.concat_tables(tables), RESPONSES), job.output)
    return {}


def batches(problems: pa.Table, size: int) -> list[pa.Table]:
    """The problems in batches; none holds problems of two benchmarks."""
    result: list[pa.Table] = []
    families = problems["family"].to_pylist()
    start = 0
    for end in range(1, len(families) + 1):
        if end == len(families) or families[end] != families[start] or end - start == size:
            result.append(problems.slice(start, end - start))
            start = end
    return result


POLICY_STEP = Step(
    name="policy",
    description="the policy of a folder or of the hub",
    inputs=lambda _: (),
    outputs=lambda _: (POLICY,),
    reads=("policy",),
    run=run_policy,
    params=BenchmarkRunParams,
)
PROBLEMS_STEP = Step(
    name="problems",
    description="the benchmarks' problems as prompts",
    inputs=lambda _: (POLICY,),
    outputs=lambda _: (DATA,),
    reads=("plugins", "benchmarks", "mirrors", "overlap_ngram", "scoring"),
    run=run_problems,
    files=lambda params: benchmark_files(params.benchmarks.values(), params.mirrors),
    params=BenchmarkRunParams,
)
RESPOND = Step(
    name="respond",
    description="graded responses to one batch of problems",
    inputs=lambda _: (POLICY, DATA),
    outputs=lambda k: (batch_file(k),),
    reads=("plugins", "batch", "evaluation", "engine", "scoring"),
    run=run_respond,
    params=BenchmarkRunParams,
)
COLLECT = Step(
    name="collect",
    description="all responses in one table",
    inputs=lambda count: tuple(batch_file(k) for k in range(count)),
    outputs=lambda _: (RESPONSES,),
    reads=(),
    run=run_collect,
    params=BenchmarkRunParams,
)
