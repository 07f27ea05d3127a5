"""Trees over an engine that samples single segments, and when each tree goes on.

A tree needs all segments of an inference step before its next one. Whether it also waits for the
other trees is the schedule. Knows growers and calls; knows neither vLLM nor processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from treepo.engines.base import EngineStats, numbered
from treepo.engines.segments import SEEDS, SegmentCall, SegmentSampler
from treepo.sampling import Grower, Request
from treepo.tree import Segment, Tree


@dataclass(eq=False)
class Growing:
    """A tree in the batch. segments: of its current inference step, by the place of the request."""

    index: int
    grower: Grower
    requests: list[Request]
    segments: dict[int, Segment] = field(default_factory=dict[int, Segment])

    @property
    def complete(self) -> bool:
        """Whether all segments of the inference step are there."""
        return len(self.segments) == len(self.requests)

    def go_on(self) -> None:
        """Ask for the next inference step. Raises StopIteration with the finished tree."""
        segments = [self.segments[place] for place in range(len(self.requests))]
        self.requests = self.grower.send(segments)
        self.segments = {}


Schedule = Callable[[Sequence[Growing]], Sequence[Growing]]


def continuous(trees: Sequence[Growing]) -> Sequence[Growing]:
    """Each tree goes on as soon as its own segments are done: no tree waits for another."""
    return [tree for tree in trees if tree.complete]


def barrier(trees: Sequence[Growing]) -> Sequence[Growing]:
    """All trees go on together, when the last segment of all is done: the official lock-step."""
    return trees if all(tree.complete for tree in trees) else []


SCHEDULES: dict[str, Schedule] = {"continuous": continuous, "barrier": barrier}


class ScheduledEngine:
    """Samples trees by single segments; rows: trees in the batch at once, None: all."""

    def __init__(
        self, sampler: SegmentSampler, schedule: Schedule, temperature: float, rows: int | None
    ) -> None:
        self._sampler = sampler
        self._schedule = schedule
        self._temperature = temperature
        self._rows = rows
        self._stats = EngineStats()
        self._numbers = count()
        self._open: dict[int, tuple[Growing, int, SegmentCall]] = {}

    def stats(self) -> EngineStats:
        """Counts since the engine was made; forward calls happen elsewhere and are not known."""
        return self._stats

    def run(self, growers: Iterable[Grower | None]) -> Iterator[tuple[int, Tree]]:
        """Yield (index of the grower, its finished tree), in the order of finishing.

        Raises WorkError where the engine fails for good; trees that finished were yielded.
        """
        queue = numbered(growers)
        self._sampler.cancel()  # what an abandoned run left open
        self._open = {}
        trees: list[Growing] = []
        calls = self._admit(queue, trees)
        while trees:
            self._receive(calls)
            calls = []
            for tree in list(self._schedule(trees)):
                try:
                    tree.go_on()
                    calls += self._calls(tree)
                except StopIteration as stop:
                    trees.remove(tree)
                    yield tree.index, stop.value
            calls += self._admit(queue, trees)
        self._sampler.rest()

    def _admit(
        self, queue: Iterator[tuple[int, Grower] | None], trees: list[Growing]
    ) -> list[SegmentCall]:
        """Add the next trees to `trees`, as far as there are rows; returns their first calls."""
        calls: list[SegmentCall] = []
        while self._rows is None or len(trees) < self._rows:
            entry = next(queue, None)
            if entry is None:
                break
            trees.append(Growing(*entry, next(entry[1])))
            calls += self._calls(trees[-1])
        return calls

    def _calls(self, tree: Growing) -> list[SegmentCall]:
        """One call a request of the tree's inference step."""
        calls: list[SegmentCall] = []
        for place, request in enumerate(tree.requests):
            call = SegmentCall(
                number=next(self._numbers),
                tree=tree.index,
                tokens=[token for node in request.node.path() for token in node.tokens],
                max_tokens=request.max_tokens,
                seed=request.seed % SEEDS,
                temperature=self._temperature,
            )
            self._open[call.number] = (tree, place, call)
            calls.append(call)
        return calls

    def _receive(self, calls: Sequence[SegmentCall]) -> None:
        """Hand the calls over and give the segments that are done to their trees."""
        for sampled in self._sampler.exchange(calls):
            tree, place, call = self._open.pop(sampled.number)
            tree.segments[place] = self._drawn(sampled.segment)
            self._stats.prefill_tokens += len(call.tokens) - sampled.cached
            self._stats.context_tokens += len(call.tokens)
            self._stats.decode_tokens += len(sampled.segment.tokens)

    def _drawn(self, segment: Segment) -> Segment:
        """The segment under the policy that drew it: greedy tokens are certain."""
        if self._temperature > 0:
            return segment
        return replace(segment, logprobs=[0.0] * len(segment.tokens))
