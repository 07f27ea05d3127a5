"""The steps of `treepo evaluate`, in this process: what they write, find again, and refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pytest
import yaml

from tasks.benchmarks import batches, policy_artifact
from tasks.evaluation_report import summarize_step
from tasks.hashing import content_hash
from tasks.lineage import Lineage, Record
from tasks.reproduce import reproduce
from tasks.run import opened
from tasks.run_evaluation import EVALUATION, batch_numbers, steps_of
from tasks.steps import make
from tasks.workspace import Workspace
from treepo.errors import UserError
from treepo.evaluation import OVERALL
from treepo.models import initial_policy, save_policy
from treepo.params import ModelParams
from treepo.schemas import check_evaluation, check_problems
from treepo.storage import read_table

SMALL = ModelParams(hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64)
TREE = {"depth": 4, "segment_length": 6, "branching": 2}
VALUES = {
    "description": "sums and more",
    "benchmarks": {"sums": {"source": "sums.jsonl"}, "more": {"source": "more.jsonl", "rows": 2}},
    "evaluation": {"samples": 4, "max_tokens": 24, "tree": TREE},
    "engine": {"threads": 1},
    "scoring": {"verifier": "numeric"},
}
Evaluate = Callable[..., Workspace]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Runs an evaluation of policy 1 of an experiment, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("sums", 5), ("more", 3)):
        rows = [{"problem": f"{name} {n}+1=?", "answer": str(n + 1)} for n in range(count)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = Workspace(Path("runs"), "exp")
    for k in range(2):
        folder = experiment.path(f"policy/{k:06d}")
        folder.mkdir(parents=True)
        save_policy(initial_policy(SMALL, seed=k), folder)
        record = Record(f"policy/{k:06d}", content_hash(folder), "update", k, {}, {})
        Lineage(experiment.root).append(record)

    def run(
        name: str = "mine", stop_after: int = 1000, against: str | None = None, **changes: object
    ) -> Workspace:
        file = Path(f"params/evaluations/{name}.yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            yaml.safe_dump({"policy": "runs/exp@1", **VALUES, **changes}, sort_keys=False)
        )
        workspace = EVALUATION.workspace(Path("runs"), name)
        params = EVALUATION.resolve(workspace)
        steps = steps_of(params, workspace, against)
        with opened(workspace, params) as context:
            for step in ("settings", "policy", "problems"):
                if step in steps:
                    make(steps[step], context)
            numbers = [n for part in batch_numbers(context).values() for n in part]
            for number in numbers[:stop_after]:
                make(steps["respond"], context, number)
            if stop_after >= len(numbers):
                make(steps["collect"], context, len(numbers))
                make(steps["summarize"], context)
        return workspace

    return run


def figures(workspace: Workspace) -> dict[str, dict[str, float]]:
    return json.loads(workspace.path("report/metrics.json").read_text())


@pytest.mark.slow
def test_every_trajectory_has_a_row(evaluate: Evaluate) -> None:
    workspace = evaluate()
    table = read_table(workspace.path("responses.parquet"), check_evaluation)
    assert table.num_rows == (5 + 2) * 4
    assert pc.value_counts(table["benchmark"]).to_pylist() == [
        {"values": "sums", "counts": 20},
        {"values": "more", "counts": 8},
    ]
    assert table["sample"].to_pylist() == [0, 1, 2, 3] * 7
    metrics = figures(workspace)
    assert metrics[OVERALL]["problems"] == 7
    assert metrics[OVERALL]["sampled_tokens"] < metrics[OVERALL]["trajectory_tokens"]
    assert metrics["wall_seconds"] > metrics["device_seconds"] > 0
    page = workspace.path("report/index.html").read_text()
    assert not re.findall(r"(?:src|href)=.?(?:https?:)?//", page.split("<script>")[0])
    assert "sums and more" in page


def test_problems_that_the_policy_was_trained_on_are_listed(evaluate: Evaluate) -> None:
    known = [{"problem": "SUMS 3 + 1 =", "answer": "4"}, {"problem": "none", "answer": "1"}]
    Path("known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
    before = evaluate("before", stop_after=0)
    assert json.loads(before.path("data/overlap.json").read_text()) == []
    trained = evaluate("trained", stop_after=0, benchmarks={"known": {"source": "known.jsonl"}})
    data = Path("runs/exp/data")
    data.mkdir()
    (data / "train.parquet").write_bytes(trained.path("data/problems.parquet").read_bytes())
    Lineage(Path("runs/exp")).append(Record("data", content_hash(data), "prepare", 0, {}, {}))
    found = json.loads(evaluate("after", stop_after=0).path("data/overlap.json").read_text())
    assert [(row["benchmark"], row["kind"]) for row in found] == [("sums", "equal")]


@pytest.mark.slow
def test_stopped_and_resumed_gives_the_same_bytes(evaluate: Evaluate) -> None:
    whole = evaluate("whole")
    parted = evaluate("parted", stop_after=3)
    before = {path: path.stat().st_mtime_ns for path in parted.path("batches").iterdir()}
    assert len(before) == 3
    evaluate("parted")
    for name in ("batches", "responses.parquet", "data"):
        assert content_hash(whole.path(name)) == content_hash(parted.path(name)), name
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    lines = [json.loads(line) for line in parted.path("lineage.jsonl").read_text().splitlines()]
    assert sum(line["step"] == "respond" for line in lines) == 7


@pytest.mark.slow
def test_a_problem_draws_the_same_in_any_batch(evaluate: Evaluate) -> None:
    tables = [
        read_table(evaluate(f"by{n}", batch=n).path("responses.parquet"), check_evaluation)
        for n in (1, 3)
    ]
    assert tables[0]["response"].to_pylist() == tables[1]["response"].to_pylist()


@pytest.mark.slow
def test_every_artifact_is_reproduced(evaluate: Evaluate) -> None:
    workspace = evaluate()
    for name in ("data", "batches/000003.parquet", "responses.parquet", "params.yaml"):
        assert reproduce(workspace.path(name), chain=False) == "identical", name
    for name in ("report/index.html", "report/metrics.json"):
        assert reproduce(workspace.path(name), chain=True) == "identical", name


def test_the_policy_s_own_lineage_is_asked(evaluate: Evaluate) -> None:
    workspace = evaluate(stop_after=1)
    record = Lineage(workspace.root).get("batches/000000.parquet")
    assert record is not None
    name = "../../exp/policy/000001"
    assert record.inputs[name] == content_hash(workspace.path(name))
    (workspace.path(name) / "config.json").write_text("{}")
    with pytest.raises(UserError, match="corrupt or changed"):
        evaluate()


def test_other_parameters_are_refused(evaluate: Evaluate) -> None:
    evaluate(stop_after=1)
    with pytest.raises(UserError, match=r"evaluation\.max_tokens = 24, now 12"):
        evaluate(evaluation={"samples": 4, "max_tokens": 12, "tree": {**TREE, "segment_length": 3}})


def test_a_local_folder_is_copied_and_recorded(evaluate: Evaluate) -> None:
    workspace = evaluate(policy="runs/exp/policy/000001", stop_after=1)
    record = Lineage(workspace.root).get("batches/000000.parquet")
    assert record is not None
    assert record.inputs["policy"] == content_hash(workspace.path("policy"))
    other = evaluate("by_run", stop_after=1)
    tables = [w.path("batches/000000.parquet").read_bytes() for w in (workspace, other)]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_comparison_with_another_evaluation(evaluate: Evaluate) -> None:
    evaluate("first", policy="runs/exp@0")
    workspace = evaluate("second", against="first")
    found = json.loads(workspace.path("report/metrics.json").read_text())["against"]
    assert found["evaluation"] == "first"
    assert found["benchmarks"][OVERALL]["problems"] == 7
    page = workspace.path("report/index.html").read_text()
    assert 'id="comparison"' in page
    assert reproduce(workspace.path("report/metrics.json"), chain=False) == "identical"
    evaluate("second")
    assert 'id="comparison"' not in workspace.path("report/index.html").read_text()


@pytest.mark.slow
def test_against_what_was_never_evaluated(evaluate: Evaluate) -> None:
    workspace = evaluate()
    with pytest.raises(
        UserError, match=r"--against nothing: no finished evaluation.*there are: mine"
    ):
        summarize_step(workspace, "nothing")


def test_policies_that_do_not_exist(evaluate: Evaluate, tmp_path: Path) -> None:
    workspace = evaluate(stop_after=0)
    refused = {
        "runs/exp@7": "no such policy; runs/exp has 2",
        "runs/exp@x": "no such policy",
        "runs/nothing@1": "runs/nothing is no experiment",
        "runs/exp": "a whole experiment; say which policy: runs/exp@last",
    }
    for source, words in refused.items():
        with pytest.raises(UserError, match=words):
            policy_artifact(source, workspace)
    assert policy_artifact("runs/exp@last", workspace) == "../../exp/policy/000001"
    assert policy_artifact(str(tmp_path / "runs/exp@0"), workspace) == "../../exp/policy/000000"


def test_a_folder_without_a_model(evaluate: Evaluate) -> None:
    Path("empty").mkdir()
    with pytest.raises(UserError, match="policy: 'empty' cannot be loaded as a model"):
        evaluate(policy="empty")


def test_benchmarks_that_cannot_be_read(evaluate: Evaluate) -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such file"):
        evaluate(benchmarks={"x": {"source": "nowhere.jsonl"}})
    with pytest.raises(
        UserError, match=r"sums\.jsonl: no column 'question'.*found: problem, answer"
    ):
        evaluate(benchmarks={"x": {"source": "sums.jsonl", "problem_column": "question"}})
    with pytest.raises(UserError, match="benchmarks: Dictionary should have at least 1"):
        evaluate(benchmarks={})


@pytest.mark.slow
def test_long_prompts_are_counted(evaluate: Evaluate) -> None:
    long = {"problem": "x" * 200, "answer": "1"}
    with Path("sums.jsonl").open("a") as file:
        file.write(json.dumps(long) + "\n")
    workspace = evaluate(prompts={"max_prompt_tokens": 64})
    filtered = json.loads(workspace.path("data/filtered.json").read_text())
    assert [(row["split"], row["tokens"]) for row in filtered] == [("sums", 201)]
    assert "1 problem left out" in workspace.path("report/index.html").read_text()


def test_batches_hold_one_benchmark_each(evaluate: Evaluate) -> None:
    workspace = evaluate(stop_after=0)
    problems = read_table(workspace.path("data/problems.parquet"), check_problems)
    sizes = [(part["family"][0].as_py(), part.num_rows) for part in batches(problems, 3)]
    assert sizes == [("sums", 3), ("sums", 2), ("more", 2)]


def test_the_files_of_benchmarks_are_recorded(evaluate: Evaluate) -> None:
    record = Lineage(evaluate(stop_after=0).root).get("data")
    assert record is not None
    assert record.files == {name: content_hash(Path(name)) for name in ("sums.jsonl", "more.jsonl")}
    Path("sums.jsonl").write_text(Path("sums.jsonl").read_text() + "\n")
    with pytest.raises(UserError, match=r"mine/data: was made before sums\.jsonl changed"):
        evaluate()


def test_recipes_by_name(evaluate: Evaluate) -> None:
    Path("params/datasets").mkdir(parents=True)
    Path("mirror").mkdir()
    Path("sums.jsonl").rename("mirror/sums.jsonl")
    Path("params/datasets/easy.yaml").write_text(
        "hub: nobody/sums\nmirror: sums.jsonl\nprompt: 'Q: {problem} A:'\n"
    )
    chosen = {"easy": {"rows": 2}, "mine": {"source": "easy", "prompts": {"prompt": "{problem}"}}}
    workspace = evaluate(benchmarks=chosen, mirrors="mirror", stop_after=0)
    problems = read_table(workspace.path("data/problems.parquet"), check_problems)
    assert problems["family"].to_pylist() == ["easy"] * 2 + ["mine"] * 5
    assert problems["prompt"].to_pylist()[0] == "Q: sums 0+1=? A:"
    assert problems["prompt"].to_pylist()[2] == "sums 0+1=?"
    with pytest.raises(UserError, match="no recipe 'easi'; did you mean 'easy'"):
        evaluate("other", benchmarks={"easi": {}})
    with pytest.raises(UserError, match=r"benchmarks\.zzz: no recipe of that name.*one of: easy"):
        evaluate("other", benchmarks={"zzz": {}})


def test_gold_answers_that_no_verifier_reads_are_counted(evaluate: Evaluate) -> None:
    rows = [{"problem": "1+1=?", "answer": "2"}, {"problem": "2+2=?", "answer": "four"}]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace = evaluate(benchmarks={"sums": {"source": "sums.jsonl"}}, stop_after=0)
    (left_out,) = json.loads(workspace.path("data/filtered.json").read_text())
    assert "cannot read the gold answer" in left_out["reason"]
