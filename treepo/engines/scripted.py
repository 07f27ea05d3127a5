"""An engine without a model: segments come from a function. For tests and simulations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from treepo.engines.base import EngineStats, numbered
from treepo.sampling import Grower, Request
from treepo.tree import Segment, Tree

Script = Callable[[Request], Segment]


class ScriptedEngine:
    """Answers each request by `script(request)`."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._stats = EngineStats()

    def run(self, growers: Iterable[Grower | None]) -> Iterator[tuple[int, Tree]]:
        """One tree after the other."""
        for index, grower in filter(None, numbered(growers)):
            requests = next(grower)
            while True:
                segments = [self._script(request) for request in requests]
                self._stats.decode_tokens += sum(len(segment.tokens) for segment in segments)
                try:
                    requests = grower.send(segments)
                except StopIteration as stop:
                    yield index, stop.value
                    break

    def stats(self) -> EngineStats:
        """Counts so far."""
        return self._stats
