"""The report in a real browser: it loads without errors and the tree viewer answers."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright
from test_report_page import data as data  # the fixture
from test_report_page import grow, shown

from tasks.report_page import ReportData, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        yield page
        browser.close()


def show(page: Page, content: str, tmp_path: Path) -> list[str]:
    """Open the report as a file; what the browser complains of."""
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    file = tmp_path / "index.html"
    file.write_text(content, encoding="utf-8")
    page.goto(file.as_uri())
    return complaints


def widths(page: Page) -> list[int]:
    """Heights of the segments [leaves]."""
    boxes = page.locator("#trees .node rect:not(.restart)")
    return [round(float(box.get_attribute("height") or 0) / 20 + 0.05) for box in boxes.all()]


def test_the_viewer_answers(page: Page, data: ReportData, tmp_path: Path) -> None:
    complaints = show(page, render(data), tmp_path)
    nodes = data.trees[1].trees[0].nodes
    assert page.locator("[data-part=question]").text_content() == "2 + 2?"
    assert page.locator("#trees .node").count() == len(nodes.parent) - 1
    assert max(widths(page)) == 4
    assert page.locator("[data-part=reader]").is_hidden()

    page.locator("#trees .node").first.click(position={"x": 3, "y": 30})
    assert "of 4 through this segment" in (page.locator("[data-part=which]").text_content() or "")
    text = page.locator("[data-part=text]").text_content() or ""
    assert text.startswith(nodes.text[1])
    assert page.locator("#trees .node.on").count() == 4
    page.locator("[data-part=next]").click()
    assert page.locator("[data-part=text]").text_content() != text

    page.locator("#trees .node").nth(2).hover()
    assert "advantage" in (page.locator("[data-part=tip]").text_content() or "")
    assert page.locator("#trees .restart").count() == sum(nodes.restarted) > 0
    begun = page.locator(f'#trees .node[data-node="{nodes.restarted.index(True)}"]')
    begun.hover()
    assert "begun by a fallback" in (page.locator("[data-part=tip]").text_content() or "")
    before = page.locator("#trees .node rect").nth(3).get_attribute("style")
    page.locator("[data-part=colour]").select_option("logprob")
    assert page.locator("#trees .node rect").nth(3).get_attribute("style") != before
    page.locator("[data-part=iteration]").select_option("1")
    first = data.trees[0].trees[0].nodes
    page.locator("#trees .node").first.click(position={"x": 3, "y": 30})
    assert (page.locator("[data-part=text]").text_content() or "").startswith(first.text[1])
    assert complaints == []


def test_every_plot_is_drawn_when_it_comes_near(
    page: Page, data: ReportData, tmp_path: Path
) -> None:
    complaints = show(page, render(data), tmp_path)
    places = page.locator("[id^=plot-]")
    assert places.count() > 5
    places.first.locator("svg.main-svg").first.wait_for()
    assert page.locator("[id^=plot-].js-plotly-plot").count() < places.count()
    page.evaluate("document.querySelectorAll('details').forEach(folded => folded.open = true)")
    for place in places.all():
        place.scroll_into_view_if_needed()
        place.locator("svg.main-svg").first.wait_for()
    assert complaints == []


def test_a_printed_page_has_every_plot(page: Page, data: ReportData, tmp_path: Path) -> None:
    complaints = show(page, render(data), tmp_path)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    places = page.locator("[id^=plot-]").count()
    assert page.locator("[id^=plot-].js-plotly-plot").count() == places
    assert complaints == []


def test_hostile_trees_run_nothing(page: Page, data: ReportData, tmp_path: Path) -> None:
    tree = grow(random.Random(3), 4, 3)
    script = "</script><script>document.title='gone'</script><img src=x onerror=alert(1)>"
    tree.text[:] = [script] * len(tree.text)
    hostile = ReportData(**{**vars(data), "trees": [shown(1, tree)]})
    complaints = show(page, render(hostile), tmp_path)
    page.locator("#trees .node").first.click(position={"x": 3, "y": 30})
    assert page.title() != "gone"
    assert page.locator("#trees img").count() == 0
    assert complaints == []
