"""The evaluation's page: complete, self-contained, safe with hostile text, the same bytes again."""

from __future__ import annotations

import dataclasses

import pytest
from test_evaluation import evaluation
from test_report_page import HOSTILE, Elements, without_plotly

from tasks.report_page import Against, EvaluationData, render_evaluation
from tasks.report_page.bars import evaluation_plots
from treepo.evaluation import OVERALL, by_benchmark, compare

BEFORE = {f"p{n}": ["1"] * (n % 4) + ["2", None] for n in range(12)}
AFTER = {f"p{n}": ["1"] * (n % 5 + 1) + ["2", None] for n in range(12)}


@pytest.fixture(scope="module")
def data() -> EvaluationData:
    before, after = (evaluation(rows, benchmark="gsm8k") for rows in (BEFORE, AFTER))
    compared, flips = compare(before, after, seed=0)
    return EvaluationData(
        name="after",
        description="Did training help?",
        policy="runs/quickstart@40",
        figures=by_benchmark(after, seed=0),
        wall=4000.0,
        device=3000.0,
        filtered={"duplicate": 1, HOSTILE: 2},
        against=Against(
            name=HOSTILE,
            figures=by_benchmark(before, seed=0),
            compared=compared,
            flips=flips,
            problems={name: f"{name}: {HOSTILE}" for name in AFTER},
        ),
        settings=[("seed", "7", "of all randomness"), ("evaluation.samples", "4", "n")],
        lineage=[("code version", "0cf0622")],
    )


def test_holds_the_numbers(data: EvaluationData) -> None:
    body = without_plotly(render_evaluation(data))
    whole = data.figures[OVERALL]
    assert data.against is not None
    change = data.against.compared[OVERALL].difference
    for text in (
        f"{100 * whole['accuracy']:.1f} %",
        f"{100 * whole['maj@k/low']:.1f} % to {100 * whole['maj@k/high']:.1f} %",
        f"+{100 * change:.1f} points",
        "1 h 6 min",
        "runs/quickstart@40",
        "1 problem left out: duplicate",
        f"{len(data.against.flips)} problems flipped",
    ):
        assert text in body, text


def test_every_section_and_plot_has_its_place(data: EvaluationData) -> None:
    elements = Elements(without_plotly(render_evaluation(data))).found
    ids = {attributes["id"] for _, attributes in elements if "id" in attributes}
    links = [attributes["href"] for tag, attributes in elements if tag == "a"]
    assert {str(link)[1:] for link in links} <= ids
    assert data.against is not None
    sections = evaluation_plots(data.figures, data.against.figures)
    assert {f"plot-{plot.name}" for plots in sections.values() for plot in plots} <= ids


def test_nothing_is_loaded_and_no_text_becomes_markup(data: EvaluationData) -> None:
    body = without_plotly(render_evaluation(data))
    assert "<script>alert" not in body
    assert "src=" not in body.replace("script-src", "").replace("img-src", "").replace(
        "&lt;img src=", ""
    )
    assert render_evaluation(data) == render_evaluation(data)


def test_without_a_comparison(data: EvaluationData) -> None:
    body = without_plotly(render_evaluation(dataclasses.replace(data, against=None)))
    assert "Comparison" not in body
    assert "plot-comparison" not in body


def test_intervals_are_drawn_around_the_bars(data: EvaluationData) -> None:
    (plot,) = evaluation_plots(data.figures)["scores"]
    names = {"accuracy": "", "maj@k": "maj@k/", "pass@k": "pass@k/"}
    for bar, (key, prefix) in zip(plot.figure.data, names.items(), strict=True):
        for column, row in enumerate(data.figures.values()):
            assert bar.y[column] == row[key]
            top = bar.y[column] + bar.error_y.array[column]
            assert top == pytest.approx(row[f"{prefix}high"])
            assert bar.y[column] - bar.error_y.arrayminus[column] == pytest.approx(
                row[f"{prefix}low"]
            )
