"""Flows called so that a Prefect server which is down, or goes down, does not stop the work.

A flow asks its server at its start and at its end; steps in between need none. What could not be
asked is done without it: every step that was made is found again, and the rest is made.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from prefect import Flow

from flows.orphans import watch
from flows.page import LOST, answers
from flows.progress import console
from flows.stopping import stoppable

_unheard = False  # whether Prefect holds events and logs for a server that is gone


def launch(flow: Flow[..., Any], *arguments: Any) -> None:
    """Call a flow; without its server where that does not answer, or has stopped answering.

    Raises Stopped where SIGTERM came, once the step under way is done.
    """
    watch()
    with stoppable():
        _call(flow, *arguments)


def _call(flow: Flow[..., Any], *arguments: Any) -> None:
    global _unheard
    if not answers():
        console.print("Prefect: its server does not answer; this run is not on its page")
        _unheard = True
        flow.fn(*arguments)
        return
    try:
        flow(*arguments)
    except LOST:
        if answers():
            raise
        console.print("Prefect: its server is gone; its page does not say how this run ended")
        _unheard = True
        flow.fn(*arguments)


def leave(code: int) -> None:
    """End the process at once where the server is gone; else return.

    At a normal exit Prefect tries to send each event for eleven seconds: minutes in all.
    """
    if _unheard and not answers():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
