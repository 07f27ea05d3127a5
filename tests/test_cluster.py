"""The Ray cluster of a run: joined, started or refused, and the room that is reserved on it."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from threading import Barrier, BrokenBarrierError
from typing import Any

import pytest

from treepo.cluster import connection
from treepo.cluster.connection import Cluster, Room
from treepo.errors import UserError, WorkError
from treepo.params import RayParams

NOBODY = "127.0.0.1:1"


def refused(**settings: Any) -> str:
    """Why a cluster cannot be used."""
    params = RayParams(**settings)
    with pytest.raises(UserError) as caught:
        reserved(params)
    message = str(caught.value)
    assert "\n" not in message
    return message


def reserved(params: RayParams) -> None:
    with closing(Cluster(params)) as cluster:
        cluster.reserve("replicas", params.replicas, params.replica_cpus, params.replica_gpus)


def test_nothing_but_a_hosts_port_is_an_address() -> None:
    with pytest.raises(ValueError, match="pattern"):
        RayParams(address="a host")
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        RayParams(replicas=0)


def test_a_cluster_that_does_not_answer_is_refused() -> None:
    assert refused(address=NOBODY).startswith(f"compute.ray.address: no cluster at '{NOBODY}'")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "find_spec", lambda _: None)
    assert refused().endswith("needs the package ray; install the extra 'ray'")


class Ray:
    """Of Ray, a cluster that another machine joins at each look."""

    __spec__ = "is found"

    def __init__(self) -> None:
        self.looks = 0

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        self.looks += 1
        return {"CPU": 4.0 * self.looks, "GPU": 0.0}


def test_machines_may_join_a_cluster_that_was_started_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", Ray())
    monkeypatch.setattr(connection, "LOOK", 0.0)
    monkeypatch.setattr(Cluster, "_placed", lambda self, *room: Room(*room, None))
    joined = Cluster(RayParams(address=NOBODY))
    assert joined.reserve("replicas", 3, 4.0, 0.0).count == 3
    with pytest.raises(UserError, match="beside 12 taken by the others, but the cluster has 16"):
        Cluster(RayParams(), joined._rooms).reserve("ranks", 2, 4.0, 0.0)
    with pytest.raises(UserError, match="2 ranks need 2 GPUs, but the cluster has 0"):
        Cluster(RayParams(address=NOBODY, deadline=1e-9)).reserve("ranks", 2, 0.0, 1.0)


def test_two_threads_do_not_reserve_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Barrier(2)

    def placed(self: Cluster, *room: Any) -> Room:
        with suppress(BrokenBarrierError):  # two threads are here at the same time, if they can
            both.wait(0.5)
        return Room(*room, None)

    monkeypatch.setitem(sys.modules, "ray", Ray())
    monkeypatch.setattr(Ray, "cluster_resources", lambda _: {"CPU": 4.0})
    monkeypatch.setattr(Cluster, "_placed", placed)
    joined = Cluster(RayParams())

    def reserve(what: str) -> str:
        try:
            return joined.reserve(what, 1, 4.0, 0.0).what
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(2) as threads:
        first, second = sorted(threads.map(reserve, ("ranks", "replicas")), key=len)
    assert first in ("ranks", "replicas")
    assert "need 4 CPUs beside 4 taken by the others" in second


@pytest.mark.slow
def test_more_than_the_cluster_has_is_refused(cluster: None) -> None:
    message = "compute.ray.replica_cpus: 2 replicas need 128 CPUs, but the cluster has 8; lower it"
    assert refused(replicas=2, replica_cpus=64).startswith(message)
    assert "2 replicas need 2 GPUs" in refused(replicas=2, replica_gpus=1)
    crowded = RayParams(placement="STRICT_SPREAD", deadline=1.0)
    with (
        closing(Cluster(crowded)) as joined,
        pytest.raises(WorkError, match="had no room for 2 ranks"),
    ):
        joined.reserve("ranks", 2, 1.0, 0.0)
