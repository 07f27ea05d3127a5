"""The report page: complete, self-contained, the same bytes each time, safe with hostile text."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import math
import random
import re

import pytest
from plotly.offline import get_plotlyjs

from tasks.report_page import ReportData, ShownIteration, ShownTree, TreeNodes, figures, render
from tasks.report_page.assembly import _source
from tasks.report_page.text import duration, number, percent, signed, snippet, visible

HOSTILE = '<script>alert(1)</script><img src="http://evil.example/x"> "\'& \x00\x1b]0;\ud800'


def grow(random_: random.Random, width: int, depth: int) -> TreeNodes:
    """A binary tree with `width` leaves or fewer, below a prompt of three tokens."""
    nodes = TreeNodes([-1], [0], [3], ["2 + 2?"], [None], [None], [None], [None], [False])
    living = [0]
    for step in range(depth):
        spare = width - len(living)
        grown = [a for i, a in enumerate(living) for _ in range(1 + (i < spare))]
        living = []
        for above in grown:
            living.append(len(nodes.parent))
            nodes.parent.append(above)
            nodes.start.append(nodes.end[above])
            nodes.end.append(nodes.end[above] + random_.randint(1, 9))
            nodes.text.append(" ".join(random_.choice(["so", "\n", "x"]) for _ in range(30)))
            nodes.advantage.append(random_.gauss(0, 1))
            nodes.logprob.append(-random_.random())
            nodes.reward.append(float(random_.random() < 0.5) if step == depth - 1 else None)
            nodes.finish.append("eos" if step == depth - 1 else None)
            nodes.restarted.append(step == depth - 1 and len(living) % 2 == 0)
    return nodes


def shown(iteration: int, *nodes: TreeNodes) -> ShownIteration:
    trees = [ShownTree(f"train-{index}", "42", tree) for index, tree in enumerate(nodes)]
    return ShownIteration(iteration, len(trees), trees)


def history(iterations: int) -> list[dict[str, float]]:
    return [
        {
            "iteration": i,
            "reward/mean": 0.2 + 0.5 * i / iterations,
            "reward/informative_trees": 12,
            "rollout/sampled_tokens": 6000 + i,
            "rollout/trajectory_tokens": 10000 + i,
            "rollout/response_length": 40.5,
            "rollout/finish/eos": 0.75,
            "rollout/finish/max_tokens": 0.25,
            "update/entropy": 1.5 - 0.01 * i,
            "update/clip_low": 0.001,
            "update/clip_high": 0.002,
            "update/grad_norm": math.nan if i == 2 else 0.7,
            "update/ratio_max": 1.3,
            "time/rollout": 12.0,
            "time/update": 4.0,
        }
        for i in range(1, iterations + 1)
    ]


@pytest.fixture(scope="module")
def data() -> ReportData:
    return ReportData(
        experiment="chain-sum",
        description="Does the tree help?",
        metrics={
            "experiment": "chain-sum",
            "iterations": 40,
            "wall_seconds": 4000.0,
            "initial": {"accuracy": 0.145, "maj@k": 0.2},
            "final": {"accuracy": 0.62, "maj@k": 0.71},
            "trajectories": 10240,
            "sampled_tokens": 246123,
            "trajectory_tokens": 410205,
            "tokens_per_second": 1234.5,
            "trajectories_per_second": 2.56,
            "extra": None,
        },
        history=history(40),
        evaluations=[
            {
                "iteration": 0,
                "accuracy": 0.145,
                "maj@k": 0.2,
                "pass@k": 0.4,
                "low": 0.1,
                "high": 0.2,
            },
            {
                "iteration": 40,
                "accuracy": 0.62,
                "maj@k": 0.71,
                "pass@k": 0.8,
                "low": 0.55,
                "high": 0.68,
            },
        ],
        settings=[
            ("seed", "7", "of all randomness"),
            ("sampling.width", "16", "trajectories a tree"),
        ],
        trees=[shown(k, grow(random.Random(k), 8, 4)) for k in (1, 40)],
        lineage=[("code version", "0cf0622")],
    )


@pytest.fixture(scope="module")
def page(data: ReportData) -> str:
    return render(data)


def without_plotly(page: str) -> str:
    return page.replace(get_plotlyjs(), "")


class Elements(html.parser.HTMLParser):
    """Collects elements and checks that they nest."""

    VOID = frozenset({"meta", "input", "br", "img", "link"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_holds_the_numbers(page: str) -> None:
    body = without_plotly(page)
    for text in ("14.5 % →", "62.0 %", "+47.5 points", "40.0 %", "10,240", "1 h 6 min", "1,234"):
        assert text in body, text
    for text in ("410205", "1234.5", "initial.maj@k", "55.0 % to 68.0 %", "8 min 0 s", "75.0 %"):
        assert text in body, text


def test_every_section_and_plot_has_its_place(page: str, data: ReportData) -> None:
    elements = Elements(without_plotly(page)).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in elements if tag == "a"]
    assert {str(link)[1:] for link in links} <= set(ids)
    sections = figures.plots(data.history, data.evaluations)
    names = [plot.name for plots in sections.values() for plot in plots]
    assert {f"plot-{name}" for name in names} <= set(ids)
    blob = re.search(r'id="figures">(.*?)</script>', page)
    assert blob is not None
    assert list(json.loads(blob[1])["figures"]) == names


def test_same_data_same_bytes(page: str, data: ReportData) -> None:
    assert render(dataclasses.replace(data)) == page


def test_plotly_stands_in_the_page_once(page: str) -> None:
    assert page.count(get_plotlyjs()) == 1


def test_nothing_is_fetched(page: str) -> None:
    for tag, attributes in Elements(without_plotly(page)).found:
        assert tag not in {"link", "img", "iframe", "object", "base"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in without_plotly(page)
    assert "default-src 'none'" in page


def test_hostile_text_is_escaped(data: ReportData) -> None:
    nodes = TreeNodes(
        [-1, 0], [0, 3], [3, 4], [HOSTILE * 40, HOSTILE], [None, math.nan], [None, -math.inf],
        [None, 0.0], [None, HOSTILE], [False, True],
    )  # fmt: skip
    hostile = ReportData(
        experiment=HOSTILE,
        description=HOSTILE,
        metrics=data.metrics | {HOSTILE: HOSTILE},
        history=[{"iteration": 1, f"update/{HOSTILE}": 1.0, f"time/{HOSTILE}": 1.0}],
        evaluations=[],
        settings=[(HOSTILE, HOSTILE, HOSTILE)],
        trees=[ShownIteration(1, 1, [ShownTree(HOSTILE, HOSTILE, nodes)])],
        lineage=[(HOSTILE, HOSTILE)],
    )
    page = without_plotly(render(hostile))
    page.encode()
    assert "<script>alert" not in page
    assert "\x00" not in page
    assert "\x1b" not in page
    assert "␀" in page
    assert all(tag != "img" for tag, _ in Elements(page).found)


@pytest.mark.parametrize("iterations", [0, 1, 100])
def test_any_number_of_iterations(data: ReportData, iterations: int) -> None:
    Elements(without_plotly(render(dataclasses.replace(data, history=history(iterations)))))


def test_empty() -> None:
    page = render(ReportData("nothing", "", {}, [], [], [], [], []))
    Elements(page)
    without_scripts = page.replace(str(_source("report.js")), "")
    assert "Plotly" not in without_scripts
    assert "No trees were sampled." in page
    assert "No iteration was run" in page


def test_no_training_claims_no_gain(data: ReportData) -> None:
    metrics = data.metrics | {"iterations": 0, "final": data.metrics["initial"]}
    page = render(dataclasses.replace(data, metrics=metrics, history=[]))
    assert "no training" in page
    assert "points" not in without_plotly(page).split("<main>")[0].split("<body>")[1]


def test_saving_leaves_gaps_where_nothing_is_known() -> None:
    figure = figures.saving(
        [
            {"rollout/sampled_tokens": 30.0, "rollout/trajectory_tokens": 40.0},
            {"rollout/sampled_tokens": 30.0},
            {"rollout/sampled_tokens": 0.0, "rollout/trajectory_tokens": 0.0},
        ]
    )
    assert list(figure.data[0].y) == [0.25, None, None]


def test_a_lone_evaluation_is_not_drawn(data: ReportData) -> None:
    assert figures.plots([], data.evaluations[:1])["learning"] == []
    assert len(figures.plots([], data.evaluations)["learning"]) == 1


def test_the_viewer_gets_each_iteration_as_json(page: str, data: ReportData) -> None:
    blobs = re.findall(r'<script type="application/json" class="trees">(.*?)</script>', page)
    assert [json.loads(blob)["iteration"] for blob in blobs] == [1, 40]
    nodes = json.loads(blobs[1])["trees"][0]["nodes"]
    expected = data.trees[1].trees[0].nodes
    assert nodes["parent"] == expected.parent
    assert nodes["text"] == expected.text
    assert nodes["advantage"][1] == round(expected.advantage[1] or 0, 4)


def test_time_leaves_out_totals() -> None:
    rows = [{"time/update": 1.0, "time/rollout": 2.0, "time/total": 3.0}] * 2
    assert figures.times(rows) == [("rollout", 4.0), ("update", 2.0)]


def test_writing_of_numbers() -> None:
    assert [signed(0.5), signed(-0.5), signed(-0.0), signed(None)] == [
        "+0.50",
        "−0.50",
        "0.00",
        "–",
    ]
    assert [number(1234567), number(0.12345), number(2.5), number(math.inf)] == [
        "1,234,567",
        "0.123",
        "2.5",
        "–",
    ]
    assert [percent(0.1234), percent(None)] == ["12.3 %", "–"]
    assert [duration(s) for s in (0.25, 59.96, 61, 7325, None)] == [
        "0.25 s",
        "60 s",
        "1 min 1 s",
        "2 h 2 min",
        "–",
    ]
    assert visible("a\x00\ud800\n") == "a␀?\n"
    assert snippet(" a\n b ") == "a b"
    assert len(snippet("x" * 1000)) == 91


def test_numbers_by_depth_are_one_map_each() -> None:
    """A depth that an iteration did not reach is empty there; no panel shows one depth alone."""
    rows = [
        {"advantage/depth_01/std": 0.5, "advantage/depth_01/group_size": 4.0},
        {"advantage/depth_01/std": 0.4, "advantage/depth_01/group_size": 4.0}
        | {"advantage/depth_02/std": 0.3, "advantage/depth_02/group_size": 2.0},
    ]
    panels = {plot.name: plot.figure for plot in figures.health(rows)}
    assert set(panels) == {"depth-std", "depth-group_size"}
    (shown,) = panels["depth-std"].data
    assert (list(shown.x), list(shown.y)) == ([1, 2], [1, 2])
    assert [list(row) for row in shown.z] == [[0.5, 0.4], [None, 0.3]]


def test_other_numbers_are_folded_away_and_constants_told_once(data: ReportData) -> None:
    rows = [
        {"update/entropy": 1.0, "update/steps": 4.0, "update/odd": float(k), "advantage/zero": 0.0}
        for k in range(3)
    ]
    drawn = figures.plots(rows, [])
    assert [plot.title for plot in drawn["health"]] == ["Entropy [nats]"]
    assert [plot.title for plot in drawn["more"]] == ["update/odd"]
    assert figures.constants(rows) == [("advantage/zero", 0.0), ("update/steps", 4.0)]
    assert figures.constants(rows[:1]) == []
    page = render(dataclasses.replace(data, history=rows))
    folded = page.split("<summary>3 more numbers</summary>")[1].split("</details>")[0]
    assert "plot-more-0" in folded
    assert "update/steps" in folded
