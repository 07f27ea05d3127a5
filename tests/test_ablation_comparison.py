"""The tables of an ablation from its runs' results, by brute force; the page that shows them."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from plotly.offline import get_plotlyjs

from tasks.report_page.ablation import AblationPage, render_ablation
from treepo.ablation.comparison import (
    FAILED,
    FINISHED,
    MEASURES,
    RunResult,
    comparison_rows,
    curve_rows,
    measures_of,
    run_rows,
)
from treepo.ablation.plan import Plan, load_plan
from treepo.ablation.stopping import History
from treepo.schemas.ablation import (
    COMPARISON_SCHEMA,
    CURVES_SCHEMA,
    RUNS_SCHEMA,
    check_comparison,
    check_curves,
    check_runs,
)

TO_BASE = {"base": "base", "better": "base"}
ACCURACY = {"base": {0: 0.1, 1: 0.4, 2: 0.3}, "better": {0: 0.2, 1: 0.6, 2: 0.35}}


def metrics(accuracy: float) -> dict[str, Any]:
    judged = {"accuracy": accuracy, "maj@k": accuracy, "pass@k": 1.0, "tokens": 12.5}
    return {
        "initial": {**judged, "accuracy": 0.05},
        "final": judged,
        "iterations": 2,
        "sampled_tokens": 300,
        "trajectory_tokens": 400,
        "trajectories_per_second": 7.0,
        "wall_seconds": 9.0,
    }


def history(last: float, tokens: float) -> History:
    updates = [
        {
            "reward/mean": 0.5 * k,
            "rollout/sampled_tokens": tokens,
            "update/entropy": 1.0,
            "rollout/response_length": 9.0,
        }
        for k in (1, 2)
    ]
    judged = {"accuracy": last, "sampled_tokens": 80.0, "device_seconds": 0.5}
    return History(updates, {0: {"accuracy": 0.05}, 2: judged})


def results() -> list[RunResult]:
    done = [
        RunResult(
            name, seed, FINISHED, "", measures_of(metrics(a), history(a, 1)), history(a, 100 + seed)
        )
        for name, runs in ACCURACY.items()
        for seed, a in runs.items()
    ]
    return [*done, RunResult("better", 3, FAILED, "no luck", {}, History([], {}))]


def test_measures_of_a_run() -> None:
    found = measures_of(metrics(0.25), history(0.25, 1))
    assert found.keys() == MEASURES.keys()
    assert found["gain"] == pytest.approx(0.2)
    assert found["tokens_saved"] == 0.25
    assert found["evaluation_tokens"] == 80


def test_comparison_by_hand() -> None:
    rows = comparison_rows(results(), TO_BASE)
    assert len(rows) == 2 * len(MEASURES)
    base, better = (row for row in rows if row["measure"] == "accuracy")
    assert (base["n"], better["n"]) == (3, 3)
    assert base["mean"] == pytest.approx(statistics.mean(ACCURACY["base"].values()))
    assert base["difference_n"] == 0
    assert base["p_t"] is None
    differences = [ACCURACY["better"][seed] - ACCURACY["base"][seed] for seed in range(3)]
    assert better["difference_mean"] == pytest.approx(statistics.mean(differences))
    half = 4.303 * statistics.stdev(differences) / math.sqrt(3)
    assert better["difference_high"] - better["difference_mean"] == pytest.approx(half, rel=1e-3)
    assert better["p_sign"] == 2 / 2**3
    assert better["p_holm"] == better["p_t"]


def result(name: str, seed: int, value: float) -> RunResult:
    return RunResult(name, seed, FINISHED, "", dict.fromkeys(MEASURES, value), History([], {}))


def test_each_variant_against_its_own_reference_and_corrected_for_all_of_them() -> None:
    values = {
        "base": [0.0, 0.0, 0.0, 0.0],
        "clear": [1.0, 2.0, 3.0, 2.0],
        "faint": [1.0, 0.0, 2.0, 1.0],
        "other": [5.0, 5.0, 5.0, 6.0],
        "lower": [4.0, 4.0, 5.0, 4.0],
    }
    references = dict.fromkeys(("base", "clear", "faint"), "base")
    references |= dict.fromkeys(("other", "lower"), "other")
    made = [result(n, seed, value) for n, each in values.items() for seed, value in enumerate(each)]
    rows = {
        row["variant"]: row
        for row in comparison_rows(made, references)
        if row["measure"] == "accuracy"
    }
    assert rows["clear"]["difference_mean"] == 2
    assert rows["lower"]["difference_mean"] == -1
    compared = ("clear", "faint", "lower")
    first, second, third = sorted(rows[name]["p_t"] for name in compared)
    expected = [3 * first, max(3 * first, 2 * second), max(3 * first, 2 * second, third)]
    corrected = sorted(rows[name]["p_holm"] for name in compared)
    assert corrected == pytest.approx([min(1, each) for each in expected])


def test_curves_over_iterations_and_over_tokens() -> None:
    rows = curve_rows(results()[:3])
    accuracy = [r for r in rows if (r["axis"], r["measure"]) == ("iteration", "accuracy")]
    assert [(row["x"], row["n"]) for row in accuracy] == [(0, 3), (2, 3)]
    assert (accuracy[0]["low"], accuracy[0]["high"]) == pytest.approx((0.05, 0.05))
    assert accuracy[1]["mean"] == pytest.approx(0.8 / 3)
    reward = [r for r in rows if (r["axis"], r["measure"]) == ("sampled_tokens", "reward")]
    # From 101 on two seeds are there, and up to 202.
    assert 101 <= reward[0]["x"] < 104
    assert 199 < reward[-1]["x"] <= 202
    assert {row["n"] for row in reward} == {2, 3}
    assert all(row["low"] is not None for row in reward)


def test_the_tables_keep_their_schemas() -> None:
    tables = (
        (run_rows(results()), RUNS_SCHEMA, check_runs),
        (comparison_rows(results(), TO_BASE), COMPARISON_SCHEMA, check_comparison),
        (curve_rows(results()), CURVES_SCHEMA, check_curves),
    )
    for rows, schema, check in tables:
        table = check(pa.Table.from_pylist(rows, schema=schema), "table")
        assert table.to_pylist() == rows


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "ablations").mkdir()
    (tmp_path / "tiny.yaml").write_text("seed: 0\n")
    (tmp_path / "ablations/study.yaml").write_text(
        "base: tiny\ndescription: <b>tags</b>\nseeds: [0, 1, 2]\n"
        "axes: {list: [{name: base}, {name: better, set: {sampling.width: 3}}]}\n"
    )
    return load_plan("study", tmp_path)


def page_of(plan: Plan, found: list[RunResult]) -> str:
    tables = (run_rows(found), comparison_rows(found, plan.references), curve_rows(found))
    return render_ablation(AblationPage(plan, *tables))


def test_the_page_holds_what_the_tables_say(plan: Plan) -> None:
    page = page_of(plan, results())
    text = page.replace(get_plotlyjs(), "")
    assert page == page_of(plan, results())
    for part in ("26.7 %", "+11.7 points", "no luck", "sampling.width", "&lt;b&gt;tags"):
        assert part in text, part
    assert "<b>tags" not in text
    assert "src=" not in text
    for meaning in MEASURES.values():
        assert meaning in text
    for plot in ("accuracy", "difference", "curve-accuracy-iteration", "curve-reward-iteration"):
        assert f'id="plot-{plot}"' in text


def test_a_page_without_any_finished_run(plan: Plan) -> None:
    failed = [
        RunResult(name, seed, FAILED, "no luck", {}, History([], {}))
        for name in ACCURACY
        for seed in range(3)
    ]
    assert "6 of 6 runs failed" in page_of(plan, failed)
