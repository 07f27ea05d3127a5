"""A failed run tells a webhook: TREEPO_WEBHOOK, an address that takes JSON.

The address is often a secret, so it is a variable of the worker's environment and no parameter.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import httpx
from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import get_current_settings

from tasks.addresses import without_password

log = logging.getLogger("tasks.notification")
WEBHOOK = "TREEPO_WEBHOOK"
PATIENCE = 10  # [s]


def notify(flow: Flow[..., Any], run: FlowRun, state: State[Any]) -> None:
    """Post what failed and why; one that cannot be posted costs a warning.

    `text` is what Slack, Mattermost and others show.
    """
    address = os.environ.get(WEBHOOK)
    if not address:
        return
    name = run.parameters.get("name", run.name)
    page = without_password(get_current_settings().ui_url or "")
    content = {
        "text": f"treepo: {flow.name} {name}: {state.name}: {state.message}",
        "flow": flow.name,
        "name": name,
        "state": state.name,
        "message": state.message,
        "flow_run": str(run.id),
        "page": f"{page}/runs/flow-run/{run.id}" if page else None,
    }
    try:
        httpx.post(address, json=content, timeout=PATIENCE).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.warning("%s: not told of the failure (%s)", WEBHOOK, type(error).__name__)
