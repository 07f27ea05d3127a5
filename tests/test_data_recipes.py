"""Recipes: every one is read, the local copies are what they were, and what is wrong is said."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from problems import TOKENIZER, jsonl, problems, reasons, sums

from treepo.data import load, prepare, read_benchmark
from treepo.data.files import read
from treepo.data.overlap import Overlap
from treepo.data.sources import _sample
from treepo.errors import UserError
from treepo.loading import describe, load_experiment, with_recipes
from treepo.params import BenchmarkParams, DataParams, DatasetParams

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "params" / "datasets"
MIRRORS = ROOT.parent / "shared" / "data" / "benchmarks"
RECIPES = sorted(file.stem for file in FOLDER.glob("*.yaml") if file.stem != "base")
ROWS = {
    "aime24": 30,
    "amc23": 40,
    "math500": 500,
    "minerva": 272,
    "olympiadbench": 675,
    "gsm8k": 7473,
    "gsm8k_test": 1319,
    "math_level3to5": 8882,
    "deepscaler": 1986,
}


def recipe(name: str) -> DatasetParams:
    return DatasetParams.model_validate(section(name)["source"])


def section(name: str) -> dict[str, Any]:
    return with_recipes({"data": {"source": name}}, FOLDER.parent)["data"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_makes_a_data_section(name: str):
    data = DataParams.model_validate(section(name))
    assert data.prompt.count("{problem}") == 1
    assert data.max_prompt_tokens <= 1024
    assert data.source == "reasoning_gym" or isinstance(data.source, DatasetParams)


@pytest.mark.parametrize("name", ROWS)
def test_the_local_copies_are_what_they_were(name: str):
    if not MIRRORS.is_dir():
        pytest.skip("the local copies of the benchmarks are not here")
    bad: list[tuple[str, str]] = []
    assert len(list(read(recipe(name), str(MIRRORS), bad))) == ROWS[name]
    assert bad == []


def test_a_changed_copy_is_refused(tmp_path: Path):
    jsonl(tmp_path / "aime24.jsonl", sums(3))
    with pytest.raises(UserError, match=r"yields other rows than the recipe 'aime24' was made for"):
        list(read(recipe("aime24"), str(tmp_path), []))


def test_a_changed_copy_is_refused_though_few_of_its_rows_are_wanted(tmp_path: Path):
    jsonl(tmp_path / "aime24.jsonl", sums(3))
    with pytest.raises(UserError, match=r"yields other rows than the recipe 'aime24' was made for"):
        few(recipe("aime24"), tmp_path)


def test_rows_that_nobody_wants_are_read_for_the_checksum_alone(tmp_path: Path):
    rows = [*sums(3), {"problem": "no answer"}]
    digest = hashlib.sha256()
    for row in sums(3):
        digest.update(f"{row['problem']}\x1f{row['answer']}\x1e".encode())
    jsonl(tmp_path / "own.jsonl", rows)
    own = DatasetParams(name="own", mirror="own.jsonl", mirror_checksum=digest.hexdigest())
    assert few(own, tmp_path) == (2, [])
    with (tmp_path / "own.jsonl").open("a") as file:
        file.write("no JSON")
    with pytest.raises(UserError, match="line 5: not valid JSON"):
        few(own, tmp_path)
    assert few(own.model_copy(update={"mirror_checksum": None}), tmp_path) == (2, [])


def few(source: DatasetParams, mirrors: Path) -> tuple[int, list[Any]]:
    """How many problems a benchmark of two rows has, and what is left out."""
    params = BenchmarkParams(source=source, rows=2)
    table, left_out = read_benchmark("b", params, str(mirrors), TOKENIZER, readable)
    return table.num_rows, left_out


def readable(golds: Sequence[str]) -> list[bool]:
    return [True] * len(golds)


def test_an_experiment_names_its_recipes(tmp_path: Path):
    (tmp_path / "datasets").mkdir()
    written = {"path": "a.jsonl", "prompt": "Q {problem}", "max_prompt_tokens": 99}
    (tmp_path / "datasets" / "mine.yaml").write_text(yaml.safe_dump(written))
    (tmp_path / "datasets" / "other.yaml").write_text("{extends: mine, path: b.jsonl}")
    file = tmp_path / "a.yaml"
    file.write_text("data: {source: mine, heldout_source: other, exclude: [other, c.jsonl]}")
    data = load_experiment(file, ["data.max_prompt_tokens=50"]).data
    assert isinstance(data.source, DatasetParams)
    assert isinstance(data.heldout_source, DatasetParams)
    assert (data.source.name, data.source.path, data.heldout_source.path) == (
        *("mine", "a.jsonl"),
        "b.jsonl",
    )
    assert (data.prompt, data.max_prompt_tokens) == ("Q {problem}", 50)
    assert [getattr(one, "name", one) for one in data.exclude] == ["other", "c.jsonl"]
    assert "data.source.path" in {entry.key for entry in describe(load_experiment(file))}
    with pytest.raises(UserError, match=r"no recipe 'mime'; did you mean 'mine'\?"):
        load_experiment(file, ["data.source=mime"])


def test_a_benchmark_may_be_a_recipe(tmp_path: Path):
    (tmp_path / "copies").mkdir()
    rows = [{"problem": "1+1", "answer": 2}, {"problem": "", "answer": 3}, *sums(3)]
    jsonl(tmp_path / "copies" / "aime24.jsonl", rows)
    benchmarks = {"a": {"source": "aime24", "rows": 2}, "b": {"source": "x.jsonl"}}
    written = with_recipes({"benchmarks": benchmarks}, FOLDER.parent)["benchmarks"]
    assert written["b"] == {"source": "x.jsonl", "prompts": {}}
    written["a"]["source"]["mirror_checksum"] = None
    params = BenchmarkParams.model_validate(written["a"])
    mirrors = str(tmp_path / "copies")
    table, left_out = read_benchmark(
        "a", params, mirrors, TOKENIZER, lambda golds: [True] * len(golds)
    )
    assert table["answer"].to_pylist() == ["2", "1"]
    assert [row["prompt_id"] for row in left_out] == [f"{mirrors}/aime24.jsonl: line 2"]


def test_a_key_that_stands_twice_is_refused(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("seed: 1\ndata:\n  split: train\n  split: test\n")
    with pytest.raises(
        UserError, match=r"a\.yaml: not valid YAML .*line 4: 'split' is there twice"
    ):
        load_experiment(file)


def hub_rows(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> dict[str, Any]:
    asked: dict[str, Any] = {}

    def fake(path: str, **others: Any) -> list[dict[str, Any]]:
        asked.update(others, hub=path)
        return rows

    monkeypatch.setattr(datasets, "load_dataset", fake)
    return asked


def test_gsm8k_as_the_hub_has_it(monkeypatch: pytest.MonkeyPatch):
    solved = {"question": "1 and 1?", "answer": "so 1,002 it is\n#### 1,002"}
    asked = hub_rows(monkeypatch, [solved, {"question": "q", "answer": "no marker"}])
    bad: list[tuple[str, str]] = []
    (row,) = read(recipe("gsm8k"), None, bad)
    assert asked == {"hub": "openai/gsm8k", "name": "main", "split": "train"}
    assert (row["problem"], row["answer"], row["family"]) == ("1 and 1?", "1002", "gsm8k")
    assert bad == [("openai/gsm8k (train): row 2", "no 'answer'")]


def test_math_as_the_hub_has_it(monkeypatch: pytest.MonkeyPatch):
    rows = [
        {"problem": f"p{level}", "level": f"Level {level}", "solution": rf"\boxed{{{level}}}"}
        for level in range(1, 6)
    ]
    hub_rows(monkeypatch, rows)
    found = list(read(recipe("math_level3to5"), None, []))
    assert [(row["problem"], row["answer"]) for row in found] == [
        *(("p3", "3"), ("p4", "4"), ("p5", "5"))
    ]


def test_nested_columns_and_streaming(monkeypatch: pytest.MonkeyPatch):
    head, tail = recipe("dapo17k").strip
    row = {
        "prompt": [{"role": "user", "content": f"{head}What?{tail}"}],
        "reward_model": {"ground_truth": "34"},
    }
    asked = hub_rows(monkeypatch, [row])
    (found,) = read(recipe("dapo17k"), None, [])
    assert asked["streaming"] is True
    assert (found["problem"], found["answer"]) == ("What?", "34")
    messages = [{"content": "You are"}, {"content": "What?"}]
    hub_rows(monkeypatch, [{"prompt": messages, "reward_model": {"ground_truth": "34"}}])
    (found,) = read(recipe("treepo_data"), None, [])
    assert found["problem"] == "What?"


def test_an_unreachable_hub_says_what_serves(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message = r"openai/gsm8k \(train\): .*no network\); .*data\.mirrors .*holds gsm8k_train\.jsonl"
    with pytest.raises(UserError, match=message):
        list(read(recipe("gsm8k"), None, []))


def test_a_renamed_column_is_said(monkeypatch: pytest.MonkeyPatch):
    hub_rows(monkeypatch, [{"query": "q", "answer": "#### 1"}])
    with pytest.raises(UserError, match=r"no column 'question' .*'problem' of the recipe.*: query"):
        list(read(recipe("gsm8k"), None, []))


def test_a_sample_needs_no_more_memory_than_itself():
    from random import Random

    counts = [0] * 10
    for seed in range(2000):
        rows = ({"problem": str(number)} for number in range(10))
        kept = _sample(rows, 3, Random(seed))
        assert len(kept) == 3
        for row in kept:
            counts[int(row["problem"])] += 1
    assert all(480 < count < 720 for count in counts)  # 600 each; 5 standard deviations


def test_near_copies_of_held_out_problems_leave_training(tmp_path: Path):
    text = "How many apples does Tom have after he gives away half of his {} apples to Ann today?"
    train = [{"problem": text.format("TWELVE!").upper(), "answer": "6"}, *sums(3)]
    heldout = [{"problem": text.format("twelve"), "answer": "6"}, *sums(2, 50)]
    files = {
        "source": jsonl(tmp_path / "train.jsonl", train),
        "heldout_source": jsonl(tmp_path / "heldout.jsonl", heldout),
    }
    prepared = prepare(DataParams(**files), TOKENIZER, 0)
    assert reasons(prepared) == {("train", "also held out"): 1}
    train[0]["problem"] = f"Listen. {text.format('twelve')} And why?"
    jsonl(tmp_path / "train.jsonl", train)
    prepared = prepare(DataParams(**files), TOKENIZER, 0)
    (reason,) = reasons(prepared)
    assert "shares a run of words" in reason[1]
    assert len(prepare(DataParams(**files, overlap_ngram=0), TOKENIZER, 0).train) == 4
    excluded = jsonl(tmp_path / "excluded.jsonl", sums(2))
    prepared = prepare(DataParams(**files, exclude=[excluded]), TOKENIZER, 0)
    assert reasons(prepared)["train", "also held out"] == 2


def test_operators_tell_problems_apart():
    overlap = Overlap(["3 + 1 = ?", "$$", "Abc, d!"], 3)
    assert overlap.kind("3+1=?") == overlap.kind("abc D") == "equal"
    assert overlap.kind("3-1=?") is None
    assert overlap.kind("%%") is None


def test_golds_that_the_verifier_cannot_read_are_left_out_and_listed(tmp_path: Path):
    source = jsonl(tmp_path / "a.jsonl", [*sums(12), {"problem": "p", "answer": "odd"}])
    golds: list[str] = []

    def readable(given: Any) -> list[bool]:
        golds.extend(given)
        return [gold.isdigit() for gold in given]

    params = DataParams(source=source, heldout_size=4)
    prepared = prepare(params, TOKENIZER, 0, readable)
    assert len(golds) == len(set(golds)) == 13
    assert [row["reason"] for row in prepared.filtered] == [
        "the verifier cannot read the gold answer"
    ]
    assert "p" not in problems(prepared.train) + problems(prepared.heldout)


@pytest.mark.parametrize("verifier_gold", ["entry", "answer"])
def test_any_task_of_reasoning_gym(verifier_gold: Any):
    params = DataParams(families={"n_queens": 1}, train_size=3, heldout_size=1, gold=verifier_gold)
    train, _ = load(params, 0)
    assert ("metadata" in train["answer"][0]) == (verifier_gold == "entry")
