"""Which replica grows which tree: each asks for the next one, and holds one at most unbegun.

Guided self-scheduling: how many trees a replica may hold at once shrinks with those that are not
finished, so early batches are full and late trees go to whoever is free. Pure: knows numbers only,
no clock, no process; the simulation uses the same code.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

# A tree ahead of room begins late where the replica has a long one. With one row an engine, eight
# replicas and lognormal lengths (sigma 0.6), 24 trees take 1.5 times as long with SPARE = 1.
SPARE = 4


class HandOut:
    """Trees by number, each waiting, held by one replica, or finished.

    trees: the first is handed out first. hold: of its equal part of the unfinished trees, what a
    replica may hold at once, in (0, 1].
    """

    def __init__(self, trees: Sequence[int], replicas: Iterable[int], hold: float = 1.0) -> None:
        self._waiting = deque(trees)
        self._held: dict[int, list[int]] = {replica: [] for replica in replicas}
        self._hold = hold
        self.unfinished = len(trees)

    def take(self, replica: int, ahead: bool = False) -> int | None:
        """The next tree for a replica; None for now: it holds enough, or none wait.

        A replica that holds nothing gets a tree as long as one waits. ahead: it may have no room
        yet, so the last trees, SPARE for each replica, wait for those that have.
        """
        held = self._held[replica]
        limit = math.ceil(self._hold * self.unfinished / len(self._held))
        spare = len(self._waiting) - (SPARE * len(self._held) if ahead and held else 0)
        if spare <= 0 or len(held) >= limit:
            return None
        tree = self._waiting.popleft()
        held.append(tree)
        return tree

    def holds_nothing(self, replica: int) -> bool:
        """Whether a replica has no tree."""
        return not self._held[replica]

    def finish(self, replica: int, tree: int) -> None:
        """A replica has finished one of its trees."""
        self._held[replica].remove(tree)
        self.unfinished -= 1

    def lose(self, replica: int) -> None:
        """A replica is gone: its trees wait again, before all others."""
        self._waiting.extendleft(reversed(self._held[replica]))
        self._held[replica] = []


def longest_first(sizes: Sequence[float]) -> list[int]:
    """The order for trees that are expected to have so many tokens; inf: nobody knows.

    Who draws a long one last keeps all others waiting.
    """
    return sorted(range(len(sizes)), key=lambda tree: -sizes[tree])
