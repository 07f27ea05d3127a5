"""What every engine offers: growers in, finished trees out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from treepo.sampling import Grower
from treepo.tree import Tree


@dataclass
class EngineStats:
    """Counts since the engine was made. prefill: tokens fed without being sampled in that step.

    context: tokens that segments were asked to follow, prompts and prefixes, once a segment; what
    of them was not fed had its keys and values cached. peak_bytes: most memory that keys and
    values have taken.
    """

    prefill_tokens: int = 0
    context_tokens: int = 0
    decode_tokens: int = 0
    forward_calls: int = 0
    peak_bytes: int = 0


class Engine(Protocol):
    """Samples trees. Trees enter and leave continuously; none waits for another.

    Growers are asked for when there is room, not before. One that is None says that there is none
    for now: the engine goes on with the trees it has and asks again later. Where it has none, the
    growers are to wait themselves.
    """

    def run(self, growers: Iterable[Grower | None]) -> Iterator[tuple[int, Tree]]:
        """Yield (index of the grower, its finished tree), in the order of finishing."""
        ...

    def stats(self) -> EngineStats:
        """Counts so far."""
        ...


def numbered(growers: Iterable[Grower | None]) -> Iterator[tuple[int, Grower] | None]:
    """Growers with their indices, which those that are None do not have."""
    numbers = count()
    for grower in growers:
        yield None if grower is None else (next(numbers), grower)
