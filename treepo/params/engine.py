"""Parameters of the engine that samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from treepo.params.base import Natural, Params, Positive


class EngineParams(Params):
    """What samples the trees."""

    name: Literal["torch"] = Field(default="torch", description="which engine")
    device: str = Field(default="cpu", description="torch device")
    rows: Positive = Field(default=16, description="trees decoded together")
    threads: Natural = Field(
        default=0, description="CPU threads; 0: one a core. Part of what a result depends on"
    )
