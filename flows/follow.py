"""`treepo report NAME --follow`: the report made again while a run goes on."""

from __future__ import annotations

import time

from flows.progress import console
from tasks.lineage import FILE
from tasks.live import LIVE, write_live
from tasks.workspace import REPORT, Workspace
from treepo.errors import UserError

PAUSE = 2  # [s]


def follow(workspace: Workspace, pause: float = PAUSE) -> None:
    """Write the page whenever the run has recorded something, until it ends or Ctrl-C.

    Raises UserError where there is no such run.
    """
    lineage = workspace.path(FILE)
    if not lineage.exists() and not workspace.is_locked():
        raise UserError(f"{workspace.root}: no run has begun here; start it with treepo run")
    seen, shown = -1, False
    while True:
        going = workspace.is_locked()  # asked first: what it recorded last must still be shown
        size = lineage.stat().st_size if lineage.exists() else 0
        if size != seen:
            seen = size
            iteration = write_live(workspace)
            if iteration is not None:
                if not shown:
                    console.print(f"page          {workspace.path(LIVE)}", soft_wrap=True)
                console.print(f"iteration {iteration}")
                shown = True
        if not going:
            break
        time.sleep(pause)
    report = workspace.path(REPORT)
    console.print(
        f"report        {report}" if report.exists() else "the run stopped before its report",
        soft_wrap=True,
    )
