"""What a run shows on its Prefect page: numbers and progress of each iteration, links.

A server that does not answer costs a warning and no result: what it was not told waits, and is sent
when it answers again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings

from flows.progress import console

LOST = (httpx.TransportError, PrefectHTTPStatusError, RuntimeError)  # what a dead server raises
PATIENCE = 2  # [s]


def answers() -> bool:
    """Whether the Prefect server answers. One that Prefect brings along itself counts as there."""
    url = get_current_settings().api.url
    if not url:
        return True
    try:
        httpx.get(f"{url}/health", timeout=PATIENCE)
    except httpx.HTTPError:
        return False
    return True


class Page:
    """The artifacts of one run, in the order in which they were shown. name: the run's."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress: UUID | None = None
        self._waiting: list[Callable[[], object]] = []
        self._down = False

    def iterated(self, iteration: int, total: int, metrics: Mapping[str, float]) -> None:
        """The numbers of an iteration as a table, and how far the run is."""
        rows = [{"metric": key, "value": round(value, 6)} for key, value in metrics.items()]
        table = partial(create_table_artifact, rows, description=f"iteration {iteration}")
        table = partial(table, key=slug(f"{self._name}-iteration"))
        self._show(table, partial(self._advance, iteration, total))

    def link(self, text: str, address: str) -> None:
        """A link, such as to the report."""
        key = slug(f"{self._name}-{text}")
        self._show(partial(create_link_artifact, address, link_text=text, key=key))

    def close(self) -> None:
        """Send what waits; say what could not be sent."""
        self._send()
        if self._waiting:
            console.print(f"Prefect: {len(self._waiting)} tables and links are missing on its page")

    def _advance(self, iteration: int, total: int) -> None:
        share, text = 100 * iteration / total, f"iteration {iteration} of {total}"
        if self._progress:
            update_progress_artifact(self._progress, share, text)
        else:
            key = slug(f"{self._name}-progress")
            self._progress = create_progress_artifact(share, key, text)

    def _show(self, *artifacts: Callable[[], object]) -> None:
        self._waiting += artifacts
        self._send()

    def _send(self) -> None:
        # Asked first, as Prefect itself would try for more than a minute.
        up = bool(self._waiting) and answers()
        while up and self._waiting:
            try:
                self._waiting[0]()
            except LOST:
                break
            self._waiting.pop(0)
        down = bool(self._waiting)
        if down and not self._down:
            console.print("Prefect: its server does not answer; the run goes on without its page")
        elif self._down and not down:
            console.print("Prefect: its server answers again; its page has caught up")
        self._down = down


def slug(text: str) -> str:
    """A name as Prefect's keys allow it."""
    return "".join(c if c.isalnum() else "-" for c in text.lower())
