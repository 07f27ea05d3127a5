"""Where sampling and updates happen, by name: on this machine, or on a Ray cluster.

Both take the same orders and tasks; what comes of them is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from threading import Lock
from typing import ClassVar, Protocol

import torch

from treepo.cluster.connection import Cluster
from treepo.cluster.ranks import Ranks
from treepo.cluster.ray_trees import RayTrees
from treepo.cluster.replica import Setup
from treepo.cluster.replicas import Replicas
from treepo.engines.hosts import ENGINES, EngineHost, StoredPolicy
from treepo.engines.orders import OwnTrees, TreeSampler, Way
from treepo.errors import UserError
from treepo.launch import Task, launch
from treepo.params import ComputeParams, EngineParams, RayParams
from treepo.registry import Registry
from treepo.scoring import VerifierPool

Verifiers = Callable[[], VerifierPool]


class Compute(Protocol):
    """What stays open over the steps of a run. shared: several threads may use it."""

    shared: ClassVar[bool]

    def trees(
        self, stored: StoredPolicy, engine: EngineParams, way: Way, verifier: Verifiers
    ) -> TreeSampler:
        """What samples this policy; that of the call before is then no longer to be used.

        verifier: opens the pool of `way` in this process.
        """
        ...

    def launch(self, ranks: int, task: Task) -> None:
        """Do a task in several processes. Raises WorkError where one fails."""
        ...

    def close(self) -> None:
        """End processes and connections."""
        ...


# By name: how one is made of the parameters and of the plugins that engines need.
COMPUTES: Registry[Callable[[ComputeParams, tuple[str, ...]], Compute]] = Registry("compute.kind")


@COMPUTES.register("local")
class LocalCompute:
    """One engine in this process, or beside it; ranks on this machine."""

    shared: ClassVar[bool] = False  # an engine of another process holds one policy

    def __init__(self, params: ComputeParams, plugins: tuple[str, ...]) -> None:
        del params, plugins
        self._stack = ExitStack()
        self._hosts: dict[EngineParams, EngineHost] = {}

    def trees(
        self, stored: StoredPolicy, engine: EngineParams, way: Way, verifier: Verifiers
    ) -> TreeSampler:
        """The engine here."""
        if engine not in self._hosts:
            host = ENGINES.get(engine.name)(engine)
            self._hosts[engine] = self._stack.enter_context(closing(host))
        opened = self._hosts[engine].engine(stored, way.sampling)
        return OwnTrees(opened, stored.policy, way, verifier)

    def launch(self, ranks: int, task: Task) -> None:
        """Processes of this machine."""
        launch(ranks, task.do)

    def close(self) -> None:
        """End the engines."""
        self._stack.close()


@COMPUTES.register("ray")
class RayCompute:
    """Replicas and ranks on a cluster, which is joined when it is first needed.

    Replicas are reserved once, so threads take turns at them.
    """

    shared: ClassVar[bool] = True

    def __init__(self, params: ComputeParams, plugins: tuple[str, ...]) -> None:
        self._params: RayParams = params.ray
        self._plugins = plugins
        self._stack = ExitStack()
        self._cluster: Cluster | None = None
        self._replicas: dict[Setup, Replicas] = {}
        self._ranks: Ranks | None = None
        self._opening = Lock()

    def trees(
        self, stored: StoredPolicy, engine: EngineParams, way: Way, verifier: Verifiers
    ) -> TreeSampler:
        """The replicas of this engine, which have verifiers of their own."""
        del verifier
        if self._params.weights == "broadcast" and engine.name != "torch":
            raise UserError(
                "compute.ray.weights: 'broadcast' reaches the engine 'torch' only, and engine.name "
                f"is '{engine.name}'; set one of them otherwise"
            )
        if engine.name == "server" and engine.server.weights != "served":
            raise UserError(
                "engine.server.weights: on Ray each replica would tell the same servers to load "
                "its own copy of a policy; set it to 'served', or engine.name to 'vllm'"
            )
        setup = Setup(engine, self._plugins, torch.get_num_threads())
        with self._opening:
            if setup not in self._replicas:
                replicas = Replicas(self._joined(), setup)
                self._replicas[setup] = self._stack.enter_context(closing(replicas))
        return RayTrees(self._replicas[setup], stored, way)

    def launch(self, ranks: int, task: Task) -> None:
        """Ranks of the cluster."""
        with self._opening:
            if self._ranks is None:
                self._ranks = self._stack.enter_context(closing(Ranks(self._joined())))
        self._ranks.launch(ranks, task)

    def close(self) -> None:
        """End replicas and ranks, and leave the cluster."""
        self._stack.close()

    def _joined(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._stack.enter_context(closing(Cluster(self._params)))
        return self._cluster
