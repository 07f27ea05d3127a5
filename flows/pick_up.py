"""A run whose process or worker died is picked up: by automations, and not for ever.

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
START = 600  # a run that has not started so long after a worker took it is taken for dead [s]
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
    return [
        AutomationCore(
            name="treepo: a silent run has crashed",
            description="its worker or its machine died",
            trigger=_silence(runs, related, "heartbeat", SILENCE),
            actions=[_crashed(f"no heartbeat for {SILENCE} s")],
        ),
        AutomationCore(
            name="treepo: a run that does not start has crashed",
            description="its worker died before it had started it",
            trigger=_silence(runs, related, "Pending", START),
            actions=[_crashed(f"not started within {START} s")],
        ),
        AutomationCore(
            name="treepo: a crashed run is picked up",
            description="it goes on where it stood",
            trigger=EventTrigger(
                match=runs,
                match_related=related,
                expect={f"{_RUN}.Crashed"},
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.SCHEDULED,
                    name="AwaitingRetry",
                    message="to be picked up by a worker",
                )
            ],
        ),
    ]


def _silence(
    runs: ResourceSpecification, related: ResourceSpecification, after: str, seconds: float
) -> EventTrigger:
    """Fires where a run gives no sign of life so long after an event."""
    return EventTrigger(
        match=runs,
        match_related=related,
        after={f"{_RUN}.{after}"},
        expect={f"{_RUN}.{sign}" for sign in _SIGNS},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        within=timedelta(seconds=seconds),
    )


def _crashed(message: str) -> ChangeFlowRunState:
    return ChangeFlowRunState(state=StateType.CRASHED, message=message)


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
