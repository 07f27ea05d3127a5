"""The Ray cluster of a run: joined or started here, and the room that is reserved on it.

Whatever keeps a cluster from being used ends in one line; nothing waits for ever.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from treepo.errors import UserError, WorkError
from treepo.params import RayParams

KNOCK = 5.0  # longest wait for an address to answer [s]
TOKEN_ADVICE = "a cluster with a token wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too"
# Nothing is sent to Ray's makers, and no environment of uv's is made on the nodes.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Room:
    """Reserved places of equal size; `group` is None where they take nothing that Ray counts."""

    cpus: float
    gpus: float
    group: Any

    def options(self, place: int) -> dict[str, Any]:
        """How an actor is put on one of the places; one that ends is not started again by Ray."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0}
        if self.group is None:
            return options
        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=place)
        return {**options, "scheduling_strategy": strategy}


@dataclass
class Cluster:
    """A connection to Ray; `close` gives back what was reserved.

    Raises UserError where Ray is not installed, does not answer or cannot be started.
    """

    params: RayParams
    _rooms: list[tuple[int, Room]] = field(default_factory=list[tuple[int, Room]])
    _opened: bool = False

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise UserError("compute.kind: 'ray' needs the package ray; install the extra 'ray'")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        import ray

        if not ray.is_initialized():
            self._connect()
            self._opened = True

    def reserve(self, what: str, count: int, cpus: float, gpus: float) -> Room:
        """Places for `count` actors.

        Raises UserError where the cluster is too small, WorkError where it has no room in time.
        """
        import ray

        self._refuse_too_many(what, count, cpus, gpus)
        bundle = {name: size for name, size in (("CPU", cpus), ("GPU", gpus)) if size}
        group = None
        if bundle:
            group = ray.util.placement_group([bundle] * count, strategy=self.params.placement)
            if not group.wait(self.params.deadline):
                ray.util.remove_placement_group(group)
                raise WorkError(
                    f"compute.ray: the cluster had no room for {count} {what} ({_said(bundle)} "
                    f"each, {self.params.placement}) within {self.params.deadline:g} s"
                )
        room = Room(cpus, gpus, group)
        self._rooms.append((count, room))
        return room

    def close(self) -> None:
        """Give back what was reserved; end the connection, if this opened it."""
        import ray

        if ray.is_initialized():
            for _, room in self._rooms:
                if room.group is not None:
                    ray.util.remove_placement_group(room.group)
            if self._opened:
                ray.shutdown()
        self._rooms = []

    def _refuse_too_many(self, what: str, count: int, cpus: float, gpus: float) -> None:
        import ray

        total = ray.cluster_resources()
        for name, size in (("CPU", cpus), ("GPU", gpus)):
            taken = sum(n * getattr(room, f"{name.lower()}s") for n, room in self._rooms)
            there = total.get(name, 0.0)
            if count * size + taken > there:
                beside = f" beside {taken:g} taken by the others" if taken else ""
                key = f"compute.ray.{what.removesuffix('s')}_{name.lower()}s"
                raise UserError(
                    f"{key}: {count} {what} need {count * size:g} {name}s{beside}, but the cluster "
                    f"has {there:g}; lower it (0: not counted), or have fewer {what}"
                )

    def _connect(self) -> None:
        import ray

        address = self.params.address
        if address is not None and address != "auto":
            _knock(address)
        own: dict[str, Any] = {} if address else {"include_dashboard": False}
        try:
            with _own_signals():
                ray.init(
                    address=address or "local",
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    **own,
                )
        except Exception as error:  # Ray raises Exception itself where a start takes too long
            reason = " ".join(str(error).split())
            where = f"no cluster at '{address}'" if address else "Ray does not start here"
            advice = f"; {TOKEN_ADVICE}" if address else ""
            raise UserError(f"compute.ray.address: {where} ({reason:.200}){advice}") from None


def _said(bundle: dict[str, float]) -> str:
    return " and ".join(f"{size:g} {name}" for name, size in bundle.items())


def _knock(address: str) -> None:
    """Raise UserError where nobody listens: Ray itself would try for a minute, and then abort."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), KNOCK).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"compute.ray.address: no cluster at '{address}' ({error}); start one with 'ray start "
            "--head', or leave the address out"
        ) from None


@contextmanager
def _own_signals() -> Generator[None]:
    """Keep the run's own way of stopping: Ray puts its handler in the place of another."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
