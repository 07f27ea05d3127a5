"""Flows called so that a Prefect server which is down, or goes down, does not stop the work.

A flow asks its server at its start and at its end; steps in between need none. What could not be
asked is done without it: every step that was made is found again, and the rest is made.
"""

from __future__ import annotations

from typing import Any

from prefect import Flow

from flows.page import LOST, answers
from flows.progress import console


def launch(flow: Flow[..., Any], *arguments: Any) -> None:
    """Call a flow; without its server where that does not answer, or has stopped answering."""
    if not answers():
        console.print("Prefect: its server does not answer; this run is not on its page")
        flow.fn(*arguments)
        return
    try:
        flow(*arguments)
    except LOST:
        if answers():
            raise
        console.print("Prefect: its server is gone; its page does not say how this run ended")
        flow.fn(*arguments)
