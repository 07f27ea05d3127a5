"""A replica: an engine in a process of its own, which asks for its next tree ahead.

The engine runs in a thread; the driver's calls bring answers and take what has happened since.
Weights arrive as a parcel or by broadcast; a few tokens sampled with them go back to be checked.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from shutil import rmtree

import psutil

from treepo.cluster.broadcast import Meeting, receive
from treepo.cluster.engine_thread import EngineThread
from treepo.cluster.failures import in_words
from treepo.cluster.network import own_address
from treepo.cluster.parcels import Parcel, unpack
from treepo.cluster.scratch import Scratch
from treepo.engines.base import EngineStats
from treepo.engines.hosts import ENGINES, EngineHost, StoredPolicy
from treepo.engines.orders import OwnTrees, TreeOrder, Way
from treepo.engines.probe import probe_order, probe_sampling
from treepo.errors import WorkError
from treepo.forest import Forest
from treepo.models import load_policy
from treepo.params import EngineParams, ScoringParams
from treepo.plugins import BUILT_IN, import_plugins
from treepo.scoring import VerifierPool

# What a finished tree waits for the engine to ask for another, so that one call tells both [s].
LINGER = 0.1


@dataclass(frozen=True)
class Setup:
    """What a replica is told once. threads: of the engine; plugins: imported first."""

    engine: EngineParams
    plugins: tuple[str, ...]
    threads: int


@dataclass(frozen=True)
class Load:
    """A policy to take over: its files, and the name of its version."""

    version: str
    files: Parcel


@dataclass(frozen=True)
class Loaded:
    """A policy was loaded; probe: a tree that was sampled with it.

    host: where; cores: of that; threads: of the engine, 0 where it computes on no CPU
    or in processes of its own.
    """

    probe: Forest
    host: str
    cores: int
    threads: int


@dataclass(frozen=True)
class Asks:
    """Another tree is wanted, now or, `ahead`, as soon as the engine has room."""

    ahead: bool = False


@dataclass(frozen=True)
class Finished:
    """A tree, by the number that it was ordered under."""

    number: int
    tree: Forest


@dataclass(frozen=True)
class Ended:
    """A run is over; counts of its engine."""

    stats: EngineStats


@dataclass(frozen=True)
class Failed:
    """A run cannot go on."""

    error: Exception


Event = Loaded | Asks | Finished | Ended | Failed


@dataclass(frozen=True)
class Numbered:
    """An answer to `Asks`: a tree to grow."""

    number: int
    order: TreeOrder


@dataclass(frozen=True)
class NoneForNow:
    """An answer to `Asks`: go on with what is there, and ask again when a tree is finished."""


@dataclass(frozen=True)
class NoMore:
    """An answer to `Asks`: all trees are finished."""


Answer = Numbered | NoneForNow | NoMore


class Replica:
    """What the actor does; all of an engine's work is done by one thread."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._scratch = Scratch()
        self._thread = EngineThread(setup.threads)
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._host: EngineHost | None = None
        self._stored: StoredPolicy | None = None
        self._pools: dict[str, VerifierPool] = {}
        self._working: Future[None] = Future()
        self._numbers: list[int] = []
        self._open = 0

    def process(self) -> int:
        """Its process id."""
        return os.getpid()

    def begin(self, load: Load | None, way: Way) -> list[Event]:
        """Start a run, with another policy first if there is one to load; then as `exchange`."""
        self._working = self._thread.submit(partial(self._work, load, way))
        return self.exchange(())

    def exchange(self, answers: Sequence[Answer]) -> list[Event]:
        """Take answers, wait until something happens, and tell it."""
        for answer in answers:
            self._answers.put(answer)
        events = [self._events.get()]
        with suppress(Empty):
            while True:
                lingers = isinstance(events[-1], Finished) and not any(map(_asks, events))
                events.append(self._events.get(timeout=LINGER if lingers else 0))
        return events

    def take(self, version: str, meeting: Meeting, member: int, scoring: ScoringParams) -> Forest:
        """Take over a policy that the driver broadcasts: a tree that was sampled with it."""
        take = partial(self._take, version, meeting, member, scoring)
        return self._thread.submit(take).result()

    def finish(self) -> None:
        """End a run from which nothing was asked."""
        self._answers.put(NoMore())
        wait([self._working])
        self._events, self._answers = SimpleQueue(), SimpleQueue()

    def close(self) -> None:
        """End what the engine and its verifiers hold, and remove the policy's files."""
        if self._host is not None:
            self._host.close()
        for pool in self._pools.values():
            pool.close()
        self._scratch.close()

    def _work(self, load: Load | None, way: Way) -> None:
        try:
            if load is not None:
                self._load(load, way.scoring)
            trees = self._trees(way)
            self._numbers, self._open = [], 0
            for index, tree in trees.run(self._orders()):
                self._open -= 1
                self._events.put(Finished(self._numbers[index], Forest.from_trees([tree])))
            self._events.put(Ended(trees.stats()))
        except Exception as error:
            error.add_note(traceback.format_exc())
            self._events.put(Failed(error))
        except BaseException as error:  # such as SystemExit of a plugin: the driver must be told
            self._events.put(Failed(WorkError(f"compute.ray: a replica ended: {in_words(error)}")))

    def _load(self, load: Load, scoring: ScoringParams) -> None:
        """Take over a policy, and sample a little for the driver to compare."""
        folder = self._scratch.folder()
        try:
            unpack(load.files, folder)
            policy = load_policy(folder, self._setup.engine.device)
        except BaseException:
            rmtree(folder, ignore_errors=True)
            raise
        before, self._stored = self._stored, StoredPolicy(policy, folder, load.version)
        probe, cores = self._probe(scoring), psutil.cpu_count() or 1
        engine = self._setup.engine
        computes = engine.name == "torch" and engine.device == "cpu"
        threads = self._setup.threads if computes else 0
        self._events.put(Loaded(probe, socket.gethostname(), cores, threads))
        if before is not None:
            rmtree(before.folder, ignore_errors=True)

    def _take(self, version: str, meeting: Meeting, member: int, scoring: ScoringParams) -> Forest:
        """As `take`. The folder keeps the files of an earlier policy, for which nobody asks."""
        assert self._stored is not None
        own_address()
        receive(meeting, member, self._stored.policy.model)
        self._stored = replace(self._stored, version=version)
        return self._probe(scoring)

    def _probe(self, scoring: ScoringParams) -> Forest:
        """A tree that is sampled with the current policy."""
        trees = self._trees(Way(probe_sampling(), scoring))
        assert self._stored is not None
        ((_, probe),) = trees.run([probe_order(self._stored.policy)])
        return Forest.from_trees([probe])

    def _trees(self, way: Way) -> OwnTrees:
        """What grows trees with the current policy."""
        if self._host is None:
            import_plugins((*BUILT_IN, *self._setup.plugins))
            self._host = ENGINES.get(self._setup.engine.name)(self._setup.engine)
        assert self._stored is not None
        engine = self._host.engine(self._stored, way.sampling)
        return OwnTrees(engine, self._stored.policy, way, partial(self._verifier, way.scoring))

    def _verifier(self, params: ScoringParams) -> VerifierPool:
        """Verifier processes of this replica, which end with it."""
        key = params.model_dump_json()
        if key not in self._pools:
            self._pools[key] = VerifierPool(params)
        return self._pools[key]

    def _orders(self) -> Iterator[TreeOrder | None]:
        """Trees as the driver hands them out; None while it has none and some are growing.

        The next one is asked for before the engine wants it, as answers travel while it decodes;
        and once more when it does, if there was none to have ahead.
        """
        question, asked = self._ask(Asks())
        while True:
            answer = self._answers.get()
            if isinstance(answer, NoMore):
                return
            if isinstance(answer, Numbered):
                self._numbers.append(answer.number)
                self._open += 1
                question, asked = self._ask(Asks(ahead=True))
                yield answer.order
                continue
            while self._open == asked and not question.ahead:
                yield None
            question, asked = self._ask(Asks())

    def _ask(self, question: Asks) -> tuple[Asks, int]:
        """Ask for a tree: the question, and how many are growing meanwhile."""
        self._events.put(question)
        return question, self._open


def _asks(event: Event) -> bool:
    return isinstance(event, Asks)
