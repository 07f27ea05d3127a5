"""The efficiency page: complete, self-contained, safe with hostile text, the same bytes again."""

from __future__ import annotations

import dataclasses

import pytest
from test_report_page import HOSTILE, Elements, without_plotly

from tasks.report_page import EfficiencyPage, render_efficiency
from treepo.efficiency import MEASURES, SCALING, summary
from treepo.params import EfficiencyParams

PARAMS = EfficiencyParams.model_validate(
    {
        "description": "Do trees pay?",
        "policy": "runs/quickstart@last",
        "benchmarks": {"sums": {"source": "sums.jsonl"}},
        "sampling": {"width": 4},
        "arms": {
            "flat": {"sampling": {"depth": 1, "segment_length": 64, "initial_branching": 4}},
            "tree": {"against": "flat", "sampling": {"depth": 8, "segment_length": 8}},
        },
        "comparisons": {
            "all": {
                "title": HOSTILE,
                "arms": ["flat", "tree"],
                "shows": ["speed", "tokens", "accuracy", "scaling"],
            }
        },
    }
)


@pytest.fixture(scope="module")
def data() -> EfficiencyPage:
    values: dict[str, dict[tuple[str, int | None], float]] = {}
    for arm, speed in (("flat", 2.0), ("tree", 3.0)):
        values[arm] = {(measure, None): 0.5 for measure in MEASURES}
        values[arm]["trajectories_per_second", None] = speed
        values[arm] |= {(measure, k): k / 4 for measure in SCALING for k in range(1, 5)}
    return EfficiencyPage(
        name="mine",
        params=PARAMS,
        problems=16,
        rows=summary([values] * 3, {"flat": None, "tree": "flat"}),
        filtered={HOSTILE: 2},
        settings=[("seed", "7", "of all randomness")],
        lineage=[("code version", "0cf0622")],
    )


def test_holds_the_numbers(data: EfficiencyPage) -> None:
    body = without_plotly(render_efficiency(data))
    for text in ("1.5 ×", "tree against flat", "Do trees pay?", "runs/quickstart@last", "0cf0622"):
        assert text in body, text


def test_every_plot_has_its_place(data: EfficiencyPage) -> None:
    elements = Elements(without_plotly(render_efficiency(data))).found
    ids = {attributes["id"] for _, attributes in elements if "id" in attributes}
    names = ("trajps", "tokenps", "tokens", "shares", "accuracy", "scaling")
    assert {f"plot-all-{name}" for name in names} <= ids


def test_hostile_text_stays_text(data: EfficiencyPage) -> None:
    page = render_efficiency(data)
    assert "<script>alert" not in without_plotly(page)
    assert render_efficiency(data) == page


def test_without_a_comparison_there_is_no_speed_up(data: EfficiencyPage) -> None:
    alone = [row for row in data.rows if row.arm == "flat"]
    rows = [*alone, *(dataclasses.replace(row, ratio=None) for row in data.rows[len(alone) :])]
    assert "Largest speed-up" not in render_efficiency(dataclasses.replace(data, rows=rows))
