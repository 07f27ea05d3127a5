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
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from time import monotonic, sleep
from typing import Any

from treepo.errors import UserError, WorkError
from treepo.params import RayParams

KNOCK = 5.0  # longest wait for an address to answer [s]
LOOK = 1.0  # between two looks whether more machines have joined [s]
TOKEN_ADVICE = "a cluster with a token wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too"
# Nothing is sent to Ray's makers, and no environment of uv's is made on the nodes.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True)
class Room:
    """`count` reserved places of equal size, for whom `what` names.

    group: None where they take nothing that Ray counts.
    """

    what: str
    count: int
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

    def bundle(self) -> dict[str, float]:
        """What each place takes of what Ray counts."""
        return {name: size for name, size in (("CPU", self.cpus), ("GPU", self.gpus)) if size}


@dataclass
class Cluster:
    """A connection to Ray, for several threads; `close` gives back what was reserved.

    Raises UserError where Ray is not installed, does not answer or cannot be started.
    """

    params: RayParams
    _rooms: list[Room] = field(default_factory=list[Room])
    _counting: threading.Lock = field(default_factory=threading.Lock)
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
        """Places for `count` actors. Machines may still join a cluster that was started elsewhere.

        Raises UserError where the cluster is too small, WorkError where it has no room in time.
        """
        until = monotonic() + self.params.deadline
        while True:
            with self._counting:
                lack = self._lack(what, count, cpus, gpus)
                if lack is None:
                    room = self._placed(what, count, cpus, gpus)
                    self._rooms.append(room)
                    break
            if self.params.address is None or monotonic() > until:
                raise UserError(lack)
            sleep(LOOK)
        self.wait_for(room)
        return room

    def wait_for(self, room: Room) -> None:
        """Wait until all places are there: also those of a machine that was lost come back.

        Raises WorkError, and gives the room back, where that takes longer than `deadline`.
        """
        if room.group is None or room.group.wait(self.params.deadline):
            return
        with self._counting:
            self._rooms.remove(room)
        _give_back(room)
        each = " and ".join(f"{size:g} {name}" for name, size in room.bundle().items())
        raise WorkError(
            f"compute.ray: the cluster had no room for {room.count} {room.what} ({each} each, "
            f"{self.params.placement}) within {self.params.deadline:g} s"
        )

    def close(self) -> None:
        """Give back what was reserved; end the connection, if this opened it."""
        import ray

        if ray.is_initialized():
            for room in self._rooms:
                _give_back(room)
            if self._opened:
                ray.shutdown()
        self._rooms = []

    def _placed(self, what: str, count: int, cpus: float, gpus: float) -> Room:
        """Places that are asked for, and may not be there yet."""
        import ray

        room = Room(what, count, cpus, gpus, None)
        if not room.bundle():
            return room
        places = [room.bundle()] * count
        return replace(room, group=ray.util.placement_group(places, strategy=self.params.placement))

    def _lack(self, what: str, count: int, cpus: float, gpus: float) -> str | None:
        """What the whole cluster has too little of, in words."""
        import ray

        total = ray.cluster_resources()
        for name, size in (("CPU", cpus), ("GPU", gpus)):
            taken = sum(room.count * room.bundle().get(name, 0.0) for room in self._rooms)
            there = total.get(name, 0.0)
            if count * size + taken > there:
                beside = f" beside {taken:g} taken by the others" if taken else ""
                key = f"compute.ray.{what.removesuffix('s')}_{name.lower()}s"
                return (
                    f"{key}: {count} {what} need {count * size:g} {name}s{beside}, but the cluster "
                    f"has {there:g}; lower it (0: not counted), or have fewer {what}"
                )
        return None

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


def _give_back(room: Room) -> None:
    import ray

    if room.group is not None:
        ray.util.remove_placement_group(room.group)


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
