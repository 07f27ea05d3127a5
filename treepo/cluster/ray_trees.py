"""Trees of one policy from the replicas: hands out orders, takes in trees, goes on after a loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import astuple, replace
from typing import Any

from treepo.cluster.failures import in_words
from treepo.cluster.hand_out import HandOut, longest_first
from treepo.cluster.replica import (
    Answer,
    Asks,
    Ended,
    Event,
    Failed,
    Finished,
    Loaded,
    NoMore,
    NoneForNow,
    Numbered,
)
from treepo.cluster.replicas import Replicas, Seat
from treepo.engines.base import EngineStats
from treepo.engines.hosts import StoredPolicy
from treepo.engines.orders import TreeOrder, Way
from treepo.engines.probe import verify_tree
from treepo.errors import WorkError
from treepo.tree import Tree


class RayTrees:
    """Samples trees of one policy on the replicas, as a `TreeSampler`.

    Nothing is sent before the first tree is ordered.
    """

    def __init__(self, replicas: Replicas, stored: StoredPolicy, way: Way) -> None:
        self._replicas = replicas
        self._stored = stored
        self._way = way
        self._stats = EngineStats()

    def stats(self) -> EngineStats:
        """Counts of all replicas, of runs that have ended; peak_bytes: of all at a time."""
        return self._stats

    def run(self, orders: Iterable[TreeOrder]) -> Iterator[tuple[int, Tree]]:
        """Yield (index of the order, its finished tree), as the replicas finish them.

        Raises UserError and WorkError of an engine, and WorkError where replicas are lost more
        often than `retries` in a row; trees that were yielded before stay. Waits for a run of
        another thread on the same replicas.
        """
        with self._replicas.turn:
            yield from self._run(orders)

    def _run(self, orders: Iterable[TreeOrder]) -> Iterator[tuple[int, Tree]]:
        run = Run(self._replicas, self._stored, self._way, list(orders))
        try:
            yield from run.trees()
            run.end()
        except BaseException:
            self._replicas.close()  # what they are at is nobody's any more
            raise
        peak = max(self._stats.peak_bytes, sum(counts.peak_bytes for counts in run.counts))
        added = map(sum, zip(*map(astuple, [self._stats, *run.counts]), strict=True))
        self._stats = replace(EngineStats(*added), peak_bytes=peak)


class Run:
    """One list of orders. counts: of the engines, once they have ended."""

    def __init__(
        self,
        replicas: Replicas,
        stored: StoredPolicy,
        way: Way,
        orders: list[TreeOrder],
    ) -> None:
        params = replicas.params
        self.counts: list[EngineStats] = []
        self._replicas = replicas
        self._stored, self._way = stored, way
        self._orders = orders
        expected = [replicas.sizes.get(order.prompt.prompt_id, math.inf) for order in orders]
        self._hand_out = HandOut(longest_first(expected), range(params.replicas), params.hold)
        self._pending: dict[Any, Seat] = {}
        self._idle: list[tuple[Seat, Asks]] = []  # they ask, and hold nothing
        self._losses = 0  # since a tree was finished

    def trees(self) -> Iterator[tuple[int, Tree]]:
        """The finished trees."""
        if not self._orders:
            return
        self._replicas.broadcast(self._stored, self._way)
        for seat in self._replicas.seats():
            if seat.finishing is None:
                self._begin(seat)
            else:
                seat.opening, self._pending[seat.finishing] = True, seat
        while self._hand_out.unfinished:
            seat, events = self._next_events()
            for event in events:
                if isinstance(event, Finished):
                    self._losses = 0
                    self._hand_out.finish(seat.number, event.number)
                    tree = next(event.tree.to_trees())
                    self._replicas.sizes[tree.prompt_id] = event.tree.sampled_tokens
                    yield event.number, tree
            self._answer(seat, events)

    def end(self) -> None:
        """Wait until the engines have ended, but for those that have not even begun."""
        while self._pending:
            for reference in [ref for ref, seat in self._pending.items() if seat.opening]:
                self._replicas.leave(self._pending.pop(reference))
            if self._pending:
                self._answer(*self._next_events())

    def _next_events(self) -> tuple[Seat, list[Event]]:
        """What one of the replicas has to tell; a lost one is replaced, and tells nothing."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        patience = None
        if all(seat.opening for seat in self._pending.values()):
            patience = self._replicas.params.deadline
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=patience)
        if not ready:
            raise WorkError(f"compute.ray: no replica was ready within {patience:g} s")
        seat = self._pending.pop(ready[0])
        try:
            events: list[Event] = ray.get(ready[0])
        except RayTaskError as error:
            raise WorkError(f"compute.ray: a replica failed: {in_words(error)}") from error
        except RayError as death:  # its process is gone, or its machine with what it answered
            self._lose(seat, death)
            return seat, []
        if ready[0] == seat.finishing:
            seat.finishing = None
            self._begin(seat)
            return seat, []
        seat.opening = False
        for event in events:
            if isinstance(event, Loaded):
                verify_tree(event.probe, self._stored.policy, self._replicas.tolerance)
                self._replicas.crowded(seat, event)
        return seat, events

    def _answer(self, seat: Seat, events: list[Event]) -> None:
        """Go on with a replica that has told something, and with those that hold nothing."""
        for event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Ended):
                self.counts.append(event.stats)
                return
        questions = [event for event in events if isinstance(event, Asks)]
        if questions:
            self._idle.append((seat, questions[-1]))
        elif events:
            self._exchange(seat, [])
        waiting, self._idle = self._idle, []
        for asking, question in waiting:
            self._serve(asking, question)

    def _serve(self, seat: Seat, question: Asks) -> None:
        """Answer a replica that asks; one that holds nothing is left waiting, if there is none."""
        number = self._hand_out.take(seat.number, question.ahead)
        answer: Answer = NoneForNow()
        if number is not None:
            answer = Numbered(number, self._orders[number])
        elif not self._hand_out.unfinished:
            answer = NoMore()
        elif self._hand_out.holds_nothing(seat.number):
            self._idle.append((seat, question))
            return
        self._exchange(seat, [answer])

    def _begin(self, seat: Seat) -> None:
        self._pending[self._replicas.begin(seat, self._stored, self._way)] = seat

    def _exchange(self, seat: Seat, answers: list[Answer]) -> None:
        self._pending[seat.actor.exchange.remote(answers)] = seat

    def _lose(self, seat: Seat, death: Exception) -> None:
        """Replace a replica; its trees wait again. Raises WorkError where that is too often."""
        if not self._hand_out.unfinished:
            self._replicas.drop(seat)
            return
        self._hand_out.lose(seat.number)
        self._losses += 1
        if self._losses > self._replicas.params.retries:
            tries = "" if self._losses == 1 else f", {self._losses} times in a row"
            reason = str(death).strip().splitlines()[0]
            raise WorkError(f"compute.ray: a replica was lost ({reason}){tries}") from death
        self._begin(self._replicas.replaced(seat))
