"""Parameters of retention: which policies stay on disk."""

from __future__ import annotations

from pydantic import Field

from treepo.params.base import Natural, Params, Positive


class CheckpointParams(Params):
    """Which policies stay. The first, the last and every evaluated one do in any case.

    One that went can be had again: its update is replayed from the stored artifacts.
    """

    keep_every: Natural = Field(
        default=1, description="keep the policy of every n-th iteration; 1: all, 0: none"
    )
    keep_last: Positive = Field(default=1, description="keep the policies of the last n iterations")
