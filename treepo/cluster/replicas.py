"""The driver's side of the replicas: starts and ends them, and gives them their policy.

Actors live as long as this does. Weights go out once a policy, through the object store or by
broadcast; a replica's trees count only after a few of its tokens were compared with the driver's
policy.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from threading import RLock
from time import monotonic
from typing import Any

from treepo.cluster.broadcast import PATIENCE, Sender, shapes
from treepo.cluster.connection import Cluster, Room
from treepo.cluster.network import own_address
from treepo.cluster.parcels import packed
from treepo.cluster.replica import Load, Loaded, Replica, Setup
from treepo.engines.hosts import StoredPolicy
from treepo.engines.orders import Way
from treepo.engines.probe import verify_tree
from treepo.forest import Forest
from treepo.params import EngineParams, RayParams
from treepo.trainer import STATE_FILE

log = logging.getLogger(__name__)
# For a replica to remove its files before it is ended [s].
GRACE = 5.0
TOLERANCE = 1e-3  # of TorchEngine, which has none of its own [nats]
# Replicas have no use for the optimizer.
TRAINER = STATE_FILE.partition("/")[0]


@dataclass
class Seat:
    """A replica's place. version, shapes: of the policy that it was last given.

    opening: it has told nothing in this run yet; begun: when it was last told to begin [s];
    finishing: the end of a run before, for which it was not ready, and has not come to yet; host:
    where it is, once it has told.
    """

    number: int
    actor: Any
    version: str = ""
    shapes: tuple[Any, ...] = ()
    opening: bool = True
    begun: float = 0.0
    finishing: Any = None
    host: str = ""


class Replicas:
    """The replicas of one engine section, over the policies of a run.

    sizes: sampled tokens of each prompt's latest tree, by prompt_id: what its next one is
    expected to have. turn: held by the run under way, as each gives the replicas its policy.
    tolerance: largest difference of a replica's logprob from the driver's [nats].
    """

    def __init__(self, cluster: Cluster, setup: Setup) -> None:
        self.params: RayParams = cluster.params
        self.tolerance = self.params.tolerance or _tolerance(setup.engine)
        self.sizes: dict[str, int] = {}
        self.turn = RLock()
        self._broadcasts = self.params.weights == "broadcast"
        self._cluster = cluster
        self._setup = setup
        self._warned = False
        self._room: Room | None = None
        self._seats: dict[int, Seat] = {}
        self._policy: tuple[str, Any] = ("", None)

    def seats(self) -> list[Seat]:
        """All replicas in their order, started where they are missing."""
        numbers = range(self.params.replicas)
        return [self._seats.get(number) or self._start(number) for number in numbers]

    def replaced(self, seat: Seat) -> Seat:
        """A new replica in the place of one that is lost."""
        self.drop(seat)
        return self._start(seat.number)

    def crowded(self, seat: Seat, loaded: Loaded) -> None:
        """Warn, once, where the threads of the replicas on a host are more than its cores."""
        seat.host = loaded.host
        count = sum(other.host == loaded.host for other in self._seats.values())
        if count < 2 or count * loaded.threads <= loaded.cores or self._warned:
            return
        self._warned = True
        log.warning(
            "compute.ray: %d replicas of %d threads share the %d cores of %s, which can make them "
            "many times slower; set engine.threads to %d",
            *(count, loaded.threads, loaded.cores, loaded.host, max(1, loaded.cores // count)),
        )

    def drop(self, seat: Seat) -> None:
        """End a replica; the next run starts another in its place."""
        import ray

        ray.kill(self._seats.pop(seat.number).actor)

    def leave(self, seat: Seat) -> None:
        """Let a replica that was not ready before the end be ready for a later run.

        It is not called again before: calls would pile up, each with a policy. One that was not
        ready for `deadline` seconds is started anew.
        """
        if monotonic() - seat.begun > self.params.deadline:
            self.drop(seat)
        elif seat.finishing is None:
            seat.version, seat.finishing = "", seat.actor.finish.remote()

    def broadcast(self, stored: StoredPolicy, way: Way) -> None:
        """Send a policy to the replicas that hold another of its shapes, if `weights` says so.

        Where that fails they are started anew, and get it as files like any that is new; so it is
        from then on, as the next broadcast might cost as much.
        """
        from ray.exceptions import RayError

        if not self._broadcasts:
            return
        known = ("", stored.version)
        alike = [seat for seat in self.seats() if seat.shapes == shapes(stored.policy.model)]
        seats = [seat for seat in alike if seat.version not in known and self._answers(seat)]
        if not seats:
            return
        try:
            probes = self._sent(seats, stored, way)
        except (RuntimeError, RayError) as error:
            reason = str(error).strip().partition("\n")[0]
            log.warning("compute.ray.weights: broadcast failed (%s); the store serves now", reason)
            self._broadcasts = False
            for seat in seats:
                self.drop(seat)
            return
        for seat, probe in zip(seats, probes, strict=True):
            verify_tree(probe, stored.policy, self.tolerance)
            seat.version = stored.version

    def _sent(self, seats: list[Seat], stored: StoredPolicy, way: Way) -> list[Forest]:
        """What each samples after a broadcast."""
        import ray

        sender = Sender.at(own_address(), len(seats))
        taken = [
            seat.actor.take.remote(stored.version, sender.meeting, member, way.scoring)
            for member, seat in enumerate(seats, 1)
        ]
        sender.send(stored.policy.model)
        return ray.get(taken, timeout=self.params.deadline)

    def _answers(self, seat: Seat) -> bool:
        """Whether a replica that has nothing to do is still there; one that is not is dropped."""
        import ray
        from ray.exceptions import RayError

        try:
            ray.get(seat.actor.process.remote(), timeout=PATIENCE.total_seconds())
        except RayError:
            self.drop(seat)
            return False
        return True

    def begin(self, seat: Seat, stored: StoredPolicy, way: Way) -> Any:
        """Start a run on a replica: the reference to its first events."""
        import ray

        load = None
        if seat.version != stored.version:
            if self._policy[0] != stored.version:
                files = packed(stored.folder, without=TRAINER)
                self._policy = (stored.version, ray.put(Load(stored.version, files)))
            load, seat.version = self._policy[1], stored.version
            seat.shapes = shapes(stored.policy.model)
        seat.opening, seat.begun = True, monotonic()
        return seat.actor.begin.remote(load, way)

    def close(self) -> None:
        """End all replicas, whatever they are doing. The next run would start new ones."""
        import ray

        if ray.is_initialized():
            ends = [seat.actor.close.remote() for seat in self._seats.values()]
            if ends:
                ray.wait(ends, num_returns=len(ends), timeout=GRACE)
            for seat in list(self._seats.values()):
                self.drop(seat)
        self._seats = {}

    def _start(self, number: int) -> Seat:
        import ray

        params = self.params
        if self._room is None:
            self._room = self._cluster.reserve(
                "replicas", params.replicas, params.replica_cpus, params.replica_gpus
            )
        actor: Any = ray.remote(Replica)
        seat = Seat(number, actor.options(**self._room.options(number)).remote(self._setup))
        self._seats[number] = seat
        return seat


def _tolerance(engine: EngineParams) -> float:
    """What the engine itself is allowed where it runs beside the driver."""
    serving = {"vllm": engine.vllm, "server": engine.server}.get(engine.name)
    return TOLERANCE if serving is None else serving.tolerance
