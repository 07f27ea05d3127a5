"""Problems from files and the hub: cuts, overlaps, and every bad input."""

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from problems import TOKENIZER, jsonl, params, problems, reasons, sums

from treepo.data import load, prepare
from treepo.data.mix import normalised
from treepo.errors import UserError


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_file_is_cut_by_seed(tmp_path: Path, suffix: str):
    file = tmp_path / f"sums.{suffix}"
    rows = [{**row, "solution": "s"} for row in sums(30)]
    if suffix == "jsonl":
        jsonl(file, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    train, heldout = load(params(source=str(file)), 1)
    assert (len(train), len(heldout)) == (20, 5)
    assert not set(problems(train)) & set(problems(heldout))
    assert train[0] == {
        "problem": train[0]["problem"],
        "answer": str(int(train[0]["problem"].split("+")[0]) + 1),
        "solution": "s",
        "family": "sums",
    }
    again = load(params(source=str(file)), 1)
    other = load(params(source=str(file)), 2)
    assert (train.to_list(), heldout.to_list()) == tuple(part.to_list() for part in again)
    assert problems(heldout) != problems(other[1])


def test_repeats_of_held_out_rows_leave_training_and_repeats_within_too(tmp_path: Path):
    source = jsonl(tmp_path / "a.jsonl", [*sums(8), {"problem": " 3+1=?", "answer": "4"}, *sums(8)])
    prepared = prepare(params(source=source, heldout_size=3), TOKENIZER, 0)
    assert len(prepared.train) == 5
    assert len(prepared.heldout) == 3
    assert len({normalised(text) for text in problems(prepared.train)}) == 5
    counts = reasons(prepared)
    assert set(counts) == {("train", "also held out"), ("train", "duplicate")}
    assert sum(counts.values()) == 17 - 8


def test_held_out_rows_of_another_file_leave_training(tmp_path: Path):
    train = jsonl(tmp_path / "train.jsonl", sums(10))
    heldout = jsonl(tmp_path / "heldout.jsonl", [*sums(4, 8), {"problem": "A  b", "answer": "c"}])
    prepared = prepare(params(source=train, heldout_source=heldout), TOKENIZER, 0)
    assert sorted(problems(prepared.train)) == sorted(row["problem"] for row in sums(8))
    assert len(prepared.heldout) == 5
    assert reasons(prepared) == {("train", "also held out"): 2}
    assert prepared.train["family"][0].as_py() == "train"


def test_generated_training_with_a_held_out_file_and_the_other_way_round(tmp_path: Path):
    file = jsonl(tmp_path / "heldout.jsonl", sums(4))
    train, heldout = load(params(heldout_source=file), 0)
    assert (len(train), len(heldout)) == (20, 4)
    train, heldout = load(params(source=file, heldout_source="reasoning_gym"), 0)
    assert (len(train), len(heldout)) == (4, 5)


def test_the_same_file_twice_leaves_nothing_to_train_on(tmp_path: Path):
    file = jsonl(tmp_path / "a.jsonl", sums(4))
    with pytest.raises(UserError, match="no train prompt is left \\(4 also held out"):
        prepare(params(source=file, heldout_source=file), TOKENIZER, 0)


def test_too_few_rows_to_cut(tmp_path: Path):
    source = jsonl(tmp_path / "a.jsonl", sums(5) + sums(5))
    with pytest.raises(UserError, match=r"a\.jsonl: 5 distinct problems are too few to hold 5 out"):
        load(params(source=source), 0)


@pytest.mark.parametrize(
    ("answer", "text"), [(7, "7"), (7.0, "7"), (0.5, "0.5"), (-1e300, "-1e+300"), ("x y", "x y")]
)
def test_numbers_are_taken_as_answers(tmp_path: Path, answer: Any, text: str):
    source = jsonl(tmp_path / "a.jsonl", [{"problem": f"p{n}", "answer": answer} for n in (1, 2)])
    train, _ = load(params(source=source, heldout_size=1), 0)
    assert train["answer"] == [text]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "1"}, "no 'problem'"),
        ({"problem": None, "answer": "1"}, "no 'problem'"),
        ({"problem": " \n", "answer": "1"}, "no 'problem'"),
        ({"problem": 3, "answer": "1"}, "'problem' is not text (3)"),
        ({"problem": "p"}, "no 'answer'"),
        ({"problem": "p", "answer": None}, "no 'answer'"),
        ({"problem": "p", "answer": ""}, "no 'answer'"),
        ({"problem": "p", "answer": ["1", None]}, "'answer' is not text (['1', None])"),
        ({"problem": "p", "answer": True}, "'answer' is not text (True)"),
        ('{"problem": "p", "answer": NaN}', "'answer' is not text (nan)"),
        ('{"problem": "\\ud800", "answer": "1"}', "'problem' is not valid Unicode text"),
    ],
)
def test_a_row_that_is_no_problem_is_left_out_and_listed(tmp_path: Path, row: Any, message: str):
    source = jsonl(tmp_path / "a.jsonl", [sums(1)[0], "", row, *sums(9, 1)])
    prepared = prepare(params(source=source), TOKENIZER, 0)
    assert len(prepared.train) + len(prepared.heldout) == 10
    (left_out,) = prepared.filtered
    assert left_out["prompt_id"] == f"{source}: line 3"
    assert left_out["reason"] == message
    only_bad = jsonl(tmp_path / "b.jsonl", [{"problem": "p", "answer": ""}] * 3)
    with pytest.raises(UserError, match=r"b\.jsonl: line 1: no 'answer'; no row of this source"):
        load(params(source=only_bad), 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"problem": "p", ', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "must be a JSON object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: Any, message: str):
    source = jsonl(tmp_path / "a.jsonl", [sums(1)[0], "", row, *sums(9)])
    with pytest.raises(UserError) as caught:
        load(params(source=source), 0)
    assert str(caught.value).startswith(f"{source}: line 3: {message}")
    assert "\n" not in str(caught.value)


def test_a_bad_row_of_a_parquet_file_is_listed(tmp_path: Path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"problem": ["p", "q", "r"], "answer": [1.0, None, 2.0]}), file)
    prepared = prepare(params(source=str(file), heldout_size=1), TOKENIZER, 0)
    assert [row["prompt_id"] for row in prepared.filtered] == [f"{file}: row 2"]


def test_columns_can_be_named_and_missing_ones_are_reported(tmp_path: Path):
    rows = [{"question": row["problem"], "gold": row["answer"]} for row in sums(9)]
    source = jsonl(tmp_path / "a.jsonl", rows)
    named = params(source=source, problem_column="question", answer_column="gold")
    assert len(load(named, 0)[0]) == 4
    with pytest.raises(UserError, match=r"no column 'problem' .*; found: question, gold"):
        load(params(source=source), 0)
    with pytest.raises(UserError, match=r"no column 'answer' \(data\.answer_column"):
        load(params(source=source, problem_column="question"), 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", None, "no such file"),
        ("a.parquet", None, "no such file"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b'{"problem": "p", "answer": "1"}\n"\xff"\n', "line 2: not UTF-8 text"),
        ("a.parquet", b"", "not a readable Parquet file"),
        ("a.parquet", b"PAR1 nonsense PAR1", "not a readable Parquet file"),
        ("a.csv", b"problem,answer\n", "must be a .parquet or .jsonl file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes | None, message: str):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(params(source=str(file)), 0)
    assert str(caught.value).startswith(f"{file}: {message}")
    assert "\n" not in str(caught.value)


def test_a_folder_and_a_broken_parquet_page(tmp_path: Path):
    for name in ("f.jsonl", "f.parquet"):
        (tmp_path / name).mkdir()
        with pytest.raises(UserError, match=r"cannot be read|not a readable"):
            load(params(source=str(tmp_path / name)), 0)
    file = tmp_path / "cut.parquet"
    pq.write_table(pa.Table.from_pylist(sums(2000)), file)
    content = bytearray(file.read_bytes())
    content[4:400] = bytes(396)
    file.write_bytes(content)
    with pytest.raises(UserError, match="not a readable Parquet file"):
        load(params(source=str(file)), 0)


# The hub


def test_a_hub_dataset_is_loaded_by_split(monkeypatch: pytest.MonkeyPatch):
    def fake(name: str, split: str) -> datasets.Dataset:
        assert name == "some/sums"
        return datasets.Dataset.from_list(sums(9) if split == "train" else sums(3, 100))

    monkeypatch.setattr(datasets, "load_dataset", fake)
    train, heldout = load(params(source="some/sums", heldout_source="some/sums"), 0)
    assert (len(train), len(heldout)) == (9, 3)
    assert set(train["family"]) == {"some/sums"}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no\nnetwork"), "the hub cannot be reached: no network"),
        (FileNotFoundError("x"), "neither a file here nor a dataset of the hub: x"),
        (ValueError("Unknown split"), "Unknown split"),
        (PermissionError("cache"), "cache"),
        (datasets.exceptions.DatasetGenerationError("broken"), "broken"),
    ],
)
def test_a_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError) as caught:
        load(params(source="some/sums"), 0)
    assert str(caught.value) == f"some/sums (train): cannot be loaded ({message})"
