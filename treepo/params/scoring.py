"""Parameters of the verifier."""

from __future__ import annotations

from pydantic import Field

from treepo.params.base import Params, Positive


class ScoringParams(Params):
    """How a response becomes a reward."""

    verifier: str = Field(default="math", description="'math' (math-verify), 'numeric', or 'exact'")
    boxed: bool = Field(default=True, description="the answer must stand in \\boxed{}")
    workers: Positive = Field(default=2, description="verifier processes")
    deadline: float = Field(default=5.0, gt=0, description="longest time for one response [s]")
    max_characters: Positive = Field(
        default=131072, description="longer responses get reward 0 [characters]"
    )
