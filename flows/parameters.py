"""Types of the flows' parameters, as Prefect's page offers them; docstrings say what they mean."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import Annotated

from prefect import runtime
from pydantic import Field

Name = Annotated[str, Field(min_length=1, examples=["smoke"])]
Runs = Annotated[str, Field(min_length=1, examples=["runs", "runs/{date}"])]
Overrides = Annotated[list[str] | None, Field(examples=[["sampling.width=8"]])]


def runs_folder(runs: str) -> Path:
    """The folder of all runs, its `{date}` put in: the day that this run was scheduled for (UTC).

    It stays the same when a run is picked up a day later.
    """
    if "{date}" not in runs:
        return Path(runs)
    day = runtime.flow_run.scheduled_start_time.astimezone(UTC).date()
    return Path(runs.replace("{date}", day.isoformat()))
