"""Which replica grows which tree: each asks for the next one when its engine has room.

Guided self-scheduling: how many trees a replica may hold at once shrinks with those that are not
finished, so early batches are full and late trees go to whoever is free. Pure: knows numbers only,
no clock, no process; the simulation uses the same code.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable


class HandOut:
    """The trees 0 .. trees - 1, each waiting, held by one replica, or finished.

    hold: of its equal part of the unfinished trees, what a replica may hold at once, in (0, 1].
    """

    def __init__(self, trees: int, replicas: Iterable[int], hold: float = 1.0) -> None:
        self._waiting = deque(range(trees))
        self._held: dict[int, set[int]] = {replica: set() for replica in replicas}
        self._hold = hold
        self.unfinished = trees

    def take(self, replica: int) -> int | None:
        """The next tree for a replica that has room; None for now: it holds enough, or none wait.

        A replica that holds nothing gets a tree as long as one waits.
        """
        held = self._held[replica]
        limit = math.ceil(self._hold * self.unfinished / len(self._held))
        if not self._waiting or len(held) >= limit:
            return None
        tree = self._waiting.popleft()
        held.add(tree)
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
        self._waiting.extendleft(sorted(self._held[replica], reverse=True))
        self._held[replica] = set()
