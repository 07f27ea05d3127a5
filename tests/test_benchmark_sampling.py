"""The sampling benchmark runs, and its record says what it compared."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("sampling_benchmark", FOLDER / "sampling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sampling_benchmark", module)
    spec.loader.exec_module(module)
    options = "--model small_llama --prompts 2 --width 4 --max-tokens 12 --rounds 2 --threads 1"
    out = tmp_path / "sampling.json"
    module.main([*options.split(), "--trees", "4:2", "--every", "1", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert set(record["ratios"]) == {"sequential", "tree 4:2", "generate"}
    assert record["ratios"]["sequential"]["x sequential"] == 1
    assert record["ratios"]["tree 4:2"]["flat/decoded"] > 1
    for done in record["rounds"]:
        assert all(outcome["trajectories"] == 8 for outcome in done.values())
        assert done["sequential"]["tokens"] == done["sequential"]["decoded"]
