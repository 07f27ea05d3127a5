"""Which policies docs/sampling shows side by side: a family of panels a picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from treepo.params import SamplingParams

SHAPE: dict[str, Any] = {
    "width": 12,
    "depth": 13,
    "segment_length": 4,
    "initial_branching": 3,
    "max_tokens": 50,
}
# Fallback shows where paths end before they fork: no growth but at the root.
FEW: dict[str, Any] = {"budget": {"control": "random_range", "growth_range": [1, 1]}}


@dataclass(frozen=True)
class Panel:
    """A tree: its title, what is sampled unlike SHAPE, the registry that says what the title means.

    The registry's key is empty where the title is no name of a policy.
    """

    title: str
    changes: dict[str, Any] = field(default_factory=dict)
    registry: str = ""

    @property
    def params(self) -> SamplingParams:
        """What the tree is sampled with."""
        return SamplingParams(**{**SHAPE, **self.changes})


def _allocation(name: str) -> Panel:
    changes = {"allocation": {"policy": name, "temperature": 0.3}}
    return Panel(name, changes, "sampling.allocation.policy")


def _budget(control: str, **more: Any) -> Panel:
    return Panel(control, {"budget": {"control": control, **more}}, "sampling.budget.control")


def _candidates(name: str) -> Panel:
    fallback = {"candidates": name, "longer_than": 16, "temperature": 0.2}
    changes = {**FEW, "initial_branching": 4, "branching": 2, "depth": 8, "fallback": fallback}
    return Panel(name, changes, "sampling.fallback.candidates")


def _position(name: str) -> Panel:
    changes = {**FEW, "fallback": {"position": name, "block": 4, "temperature": 0.2}}
    return Panel(name, changes, "sampling.fallback.position")


FAMILIES: dict[str, list[Panel]] = {
    "allocation": [
        *map(_allocation, ("even", "low_probability", "high_probability", "entropy")),
        *map(_allocation, ("high_value", "low_value")),
    ],
    "budget": [
        _budget("factor"),
        _budget("random_range"),
        _budget("step_tokens", step_tokens=20),
        Panel("total_tokens 200, min_width 3", {"budget": {"total_tokens": 200, "min_width": 3}}),
    ],
    "stops": [
        Panel("eos, answer, repetition, limits"),
        Panel("answer_with_eos, eos, limits", {"stops": ["answer_with_eos", "eos", "limits"]}),
        Panel("answer, min_tokens 24", {"min_tokens": 24}),
        Panel("repetition: a character twice", {"repetition": {"length": 1, "count": 2}}),
        Panel(
            "forced_answer.remaining 12",
            {"max_tokens": 22, "forced_answer": {"remaining": 12, "text": "so \\boxed{"}},
        ),
        Panel("sequential: depth 1", {"depth": 1, "segment_length": 50, "initial_branching": 12}),
    ],
    "candidates": [
        *map(_candidates, ("answer_or_eos", "finished_first", "finished_first_strict", "random")),
        *map(_candidates, ("longer_first", "answered_longer_than", "high_value", "low_value")),
    ],
    "positions": [
        *map(_position, ("random_segment", "low_probability_block", "high_probability_block")),
        *map(_position, ("min_probability_token", "misaligned", "high_value", "low_value")),
        *map(_position, ("from_root", "none")),
        Panel("random_segment, window 1", {**FEW, "fallback": {"window": 1}}),
    ],
}
