"""How two artifacts are compared: byte for byte, or numbers within a tolerance."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from tasks.differences import Comparison


def table(file: Path, **columns: list[object]) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


def difference(stored: Path, again: Path, tolerance: float = 0.0) -> str | None:
    return Comparison(tolerance).first_difference(stored, again)


def test_tables(tmp_path: Path) -> None:
    stored = table(tmp_path / "a.parquet", key=[1, 2], numbers=[[0.5, math.nan], [2.0]])
    near = table(tmp_path / "b.parquet", key=[1, 2], numbers=[[0.5 + 1e-6, math.nan], [2.0]])
    other = table(tmp_path / "c.parquet", key=[1, 3], numbers=[[0.5, math.nan], [2.0]])
    longer = table(tmp_path / "d.parquet", key=[1, 2, 3], numbers=[[0.5], [2.0], []])
    assert difference(stored, stored) is None
    assert "column 'numbers', row 0" in (difference(stored, near) or "")
    comparison = Comparison(1e-4)
    assert comparison.first_difference(stored, near) is None
    assert comparison.largest == pytest.approx(1e-6)
    assert "column 'key', row 1: 2 stored, 3 made again" in (difference(stored, other, 1.0) or "")
    assert "rows: 2 stored, 3 made again" in (difference(stored, longer, 1.0) or "")


def test_tokens_and_texts_have_no_tolerance(tmp_path: Path) -> None:
    stored = table(tmp_path / "a.parquet", tokens=[[7, 8]], text=["x"])
    for changes in ({"tokens": [[7, 9]]}, {"text": ["y"]}, {"tokens": [[7]]}):
        columns = {"tokens": [[7, 8]], "text": ["x"], **changes}
        again = table(tmp_path / "b.parquet", **columns)
        assert "row 0" in (difference(stored, again, 0.5) or "")


def test_json(tmp_path: Path) -> None:
    stored, again = tmp_path / "a.json", tmp_path / "b.json"
    stored.write_text(json.dumps({"update": {"loss": 100.0}, "steps": 1}))
    again.write_text(json.dumps({"update": {"loss": 100.001}, "steps": 1}))
    assert "update.loss: 100.0 stored, 100.001" in (difference(stored, again) or "")
    assert difference(stored, again, 1e-4) is None  # relative, as the number is above 1
    again.write_text(json.dumps({"update": {"loss": 100.1}, "steps": 1}))
    assert "update.loss" in (difference(stored, again, 1e-4) or "")
    again.write_text(json.dumps({"update": {"loss": 100.0}}))
    assert "steps stored, update.loss made again" in (difference(stored, again, 1e-4) or "")


def test_policies(tmp_path: Path) -> None:
    for name, change in (("stored", 0.0), ("near", 3e-6), ("far", 3e-3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        weights = {"a": torch.ones(2, 3), "b": torch.full((4,), 0.25) + change}
        save_file(weights, tmp_path / name / "model.safetensors")
    stored = tmp_path / "stored"
    assert difference(stored, tmp_path / "near", 1e-4) is None
    assert "model.safetensors: b" in (difference(stored, tmp_path / "far", 1e-4) or "")
    (tmp_path / "near/more.txt").write_text("x")
    assert "only made again" in (difference(stored, tmp_path / "near", 1e-4) or "")


def test_bytes_without_a_tolerance(tmp_path: Path) -> None:
    stored, again = tmp_path / "a.json", tmp_path / "b.json"
    stored.write_text('{"a": 1}')
    again.write_text('{"a":  1}')
    assert "byte" in (difference(stored, again) or "")
    assert difference(stored, again, 1e-4) is None


def test_damaged_files_are_compared_by_bytes(tmp_path: Path) -> None:
    for name in ("x.parquet", "x.json", "x.safetensors"):
        stored, again = tmp_path / name, tmp_path / "again" / name
        again.parent.mkdir(exist_ok=True)
        stored.write_bytes(b"abc")
        again.write_bytes(b"abd")
        assert "byte 2" in (difference(stored, again, 1e-4) or "")
