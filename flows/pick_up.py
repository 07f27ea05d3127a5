"""A run whose process or worker died is picked up: two automations, and a limit on their zeal.

A flow sends heartbeats. Where they stop without an end, the server calls the run crashed; a run of
a deployment that crashed is scheduled again, and the next worker goes on with it where it stood.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prefect import runtime
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.progress import console
from treepo.errors import WorkError

HEARTBEAT_SECONDS = 30  # the least that Prefect takes
SILENCE = 90  # three heartbeats; a run that says nothing for so long is taken for dead [s]
ATTEMPTS = 5
LONGEST_WAIT = 300  # [s]
_RUN = "prefect.flow-run"
_SIGNS = ("heartbeat", "Running", "Completed", "Failed", "Crashed", "Cancelled", "AwaitingRetry")


def automations(deployments: Sequence[UUID]) -> list[AutomationCore]:
    """For these deployments' runs and no others: nobody would pick up a run without a worker."""
    related = ResourceSpecification(
        {
            "prefect.resource.role": "deployment",
            "prefect.resource.id": [f"prefect.deployment.{id}" for id in deployments],
        }
    )
    runs = ResourceSpecification({"prefect.resource.id": f"{_RUN}.*"})
    silent = EventTrigger(
        match=runs,
        match_related=related,
        after={f"{_RUN}.heartbeat", f"{_RUN}.Pending"},
        expect={f"{_RUN}.{sign}" for sign in _SIGNS},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        within=timedelta(seconds=SILENCE),
    )
    crashed = EventTrigger(
        match=runs,
        match_related=related,
        expect={f"{_RUN}.Crashed"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
    )
    dead = ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {SILENCE} s")
    again = ChangeFlowRunState(
        state=StateType.SCHEDULED, name="AwaitingRetry", message="to be picked up by a worker"
    )
    return [
        AutomationCore(
            name="treepo: a silent run has crashed",
            description="its worker or its machine died",
            trigger=silent,
            actions=[dead],
        ),
        AutomationCore(
            name="treepo: a crashed run is picked up",
            description="it goes on where it stood",
            trigger=crashed,
            actions=[again],
        ),
    ]


def pick_up() -> None:
    """Say so where this flow's run was picked up; wait longer from time to time.

    Raises WorkError after the last attempt: a run that kills its process each time would go on so
    for ever.
    """
    attempt = runtime.flow_run.run_count or 1
    if attempt == 1:
        return
    if attempt > ATTEMPTS:
        raise WorkError(f"crashed {ATTEMPTS} times; start it again when the cause is found")
    wait = min(LONGEST_WAIT, 5 * 2 ** (attempt - 2))
    console.print(f"picked up, attempt {attempt} of {ATTEMPTS}; goes on in {wait} s")
    time.sleep(wait)
