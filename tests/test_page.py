"""What a run's Prefect page is told, by a server that comes and goes."""

from __future__ import annotations

import httpx
import pytest
from prefect import flow

from flows import launch as launching
from flows import page as showing
from flows.launch import launch
from flows.page import Page, answers


class Server:
    """Takes artifacts while it is up."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.up = True
        self.shown: list[object] = []
        patch.setattr(showing, "answers", lambda: self.up)
        patch.setattr(launching, "answers", lambda: self.up)
        patch.setattr(showing, "create_table_artifact", self._take("table"))
        patch.setattr(showing, "create_link_artifact", self._take("link"))
        patch.setattr(showing, "create_progress_artifact", self._take("progress"))
        patch.setattr(showing, "update_progress_artifact", self._take("more"))

    def _take(self, kind: str) -> object:
        def take(*arguments: object, **_: object) -> str:
            self.shown.append((kind, arguments[-1]) if kind == "more" else kind)
            return "id"

        return take


def test_what_was_not_told_is_told_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(monkeypatch)
    page = Page("smoke")
    page.iterated(1, 3, {"reward/mean": 0.5})
    server.up = False
    page.iterated(2, 3, {"reward/mean": 0.5})
    page.link("report", "file:///r")
    assert server.shown == ["table", "progress"]
    server.up = True
    page.iterated(3, 3, {"reward/mean": 0.5})
    page.close()
    assert server.shown[2:] == [
        "table",
        ("more", "iteration 2 of 3"),
        "link",
        "table",
        ("more", "iteration 3 of 3"),
    ]
    said = capsys.readouterr().out
    assert said.count("does not answer") == 1
    assert "has caught up" in said


def test_what_never_arrives_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Server(monkeypatch).up = False
    page = Page("smoke")
    page.link("mlflow", "http://x")
    page.close()
    assert "1 tables and links are missing" in capsys.readouterr().out


def test_without_a_server_the_work_is_done_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    Server(monkeypatch).up = False
    done: list[int] = []

    @flow
    def work(number: int) -> None:
        done.append(number)

    launch(work, 7)
    assert done == [7]


def test_an_error_of_the_work_is_not_taken_for_the_server_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Server(monkeypatch)

    class Failing:
        def __call__(self) -> None:
            raise httpx.ConnectError("a dataset's address")

    with pytest.raises(httpx.ConnectError):
        launch(Failing())  # type: ignore[arg-type]


def test_a_dead_address_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert not answers()
