"""The `reasoning_gym` verifier: a task's own score, for tasks with more than one right answer.

The gold answer is the task's entry as JSON, with the name of its data set in the metadata.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import import_module
from typing import Any

from treepo.scoring.verifiers import register


def entry_of(gold: str) -> dict[str, Any]:
    """The entry that `gold` spells. Raises ValueError where it spells none."""
    entry = json.loads(gold)
    if not isinstance(entry, dict) or "answer" not in entry:
        raise ValueError("the gold answer is no entry of reasoning-gym")
    return entry


@lru_cache(maxsize=64)
def _scorer(name: str) -> Any:
    return import_module("reasoning_gym").get_score_answer_fn(name)


def _load() -> None:
    """Import reasoning-gym, which takes seconds."""
    import_module("reasoning_gym")


def _reads(gold: str) -> bool:
    """Whether it is an entry that its own task finds right as it stands."""
    try:
        entry = entry_of(gold)
        return reasoning_gym(gold, str(entry["answer"])) >= 1
    except (ValueError, KeyError, TypeError):
        return False


@register("reasoning_gym", reads=_reads, load=_load)
def reasoning_gym(gold: str, answer: str) -> float:
    """The task's own score in [0, 1]; 1 is right."""
    entry = entry_of(gold)
    return float(_scorer(entry["metadata"]["source_dataset"])(answer, entry))
