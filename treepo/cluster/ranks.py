"""The ranks of an update as actors: they meet, train, and send home what the first one wrote.

Folders travel as parcels, so machines need not share a disk. Ranks stay over the updates of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from shutil import rmtree
from typing import Any

from treepo.cluster.connection import Cluster, Room
from treepo.cluster.failures import in_words
from treepo.cluster.network import own_address
from treepo.cluster.parcels import Parcel, packed, unpack
from treepo.cluster.scratch import Scratch
from treepo.errors import WorkError
from treepo.launch import Task, enter, open_store, threads_of

# A rank that dies takes its neighbours' connections with it: until its own end is known [s].
GRACE = 10.0


class Rank:
    """What the actor does."""

    def __init__(self) -> None:
        self._scratch = Scratch()

    def meet(self) -> str:
        """Where the ranks can meet: at this process, as long as it lives."""
        address = own_address()
        self._store = open_store(address)
        return f"{address}:{self._store.port}"

    def join(self, index: int, ranks: int, master: str, threads: int) -> None:
        """Become a rank. Ray shows each actor its own devices only: it is alone there."""
        self._index = index
        own_address()
        enter(index, ranks, master, threads, {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1})

    def do(self, sent: tuple[Task, Mapping[str, Parcel]]) -> dict[str, Parcel]:
        """Do a rank's share of a task, given what that reads; what the first one wrote."""
        task, reads = sent
        folder = self._scratch.folder()
        places = {name: folder / name for name in (*task.reads, *task.writes)}
        try:
            for name, parcel in reads.items():
                unpack(parcel, places[name])
            task.at(places).do()
            wrote = task.writes if self._index == 0 else ()
            return {name: packed(places[name]) for name in wrote}
        finally:
            rmtree(folder, ignore_errors=True)


class Ranks:
    """The ranks of a run's updates, started by the first."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._rooms: dict[int, Room] = {}
        self._actors: list[Any] = []

    def launch(self, ranks: int, task: Task) -> None:
        """Do a task in `ranks` processes.

        Raises WorkError with what a rank raised, or where ranks are lost more often than `retries`
        in a row. After a loss all of them start again, from the same inputs.
        """
        import ray

        reads = {name: packed(path) for name, path in task.reads.items()}
        sent, losses = ray.put((task, reads)), 0
        while True:
            try:
                wrote = self._attempt(ranks, sent)
                break
            except RankLost as loss:
                self.close()
                losses += 1
                if losses > self._cluster.params.retries:
                    raise WorkError(f"update: a rank was lost ({loss})") from None
            except BaseException:
                self.close()  # the others would wait for ever
                raise
        for name, parcel in wrote.items():
            unpack(parcel, task.writes[name])

    def close(self) -> None:
        """End all ranks. The next update would start new ones."""
        import ray

        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor)
        self._actors = []

    def _attempt(self, ranks: int, sent: Any) -> dict[str, Parcel]:
        """What the first rank wrote."""
        if len(self._actors) != ranks:
            self.close()
            self._start(ranks)
        return _all([actor.do.remote(sent) for actor in self._actors])[0]

    def _start(self, ranks: int) -> None:
        """New actors that have met.

        Raises WorkError where that takes too long: an actor whose machine is gone waits for ever.
        """
        import ray

        params = self._cluster.params
        room = self._rooms.pop(ranks, None)
        if room is None:
            room = self._cluster.reserve("ranks", ranks, params.rank_cpus, params.rank_gpus)
        else:
            self._cluster.wait_for(room)
        self._rooms[ranks] = room
        actor: Any = ray.remote(Rank)
        options = map(room.options, range(ranks))
        self._actors = [actor.options(**chosen).remote() for chosen in options]
        (master,) = _all([self._actors[0].meet.remote()], params.deadline)
        threads = threads_of(ranks)
        joined = [a.join.remote(i, ranks, master, threads) for i, a in enumerate(self._actors)]
        _all(joined, params.deadline)


class RankLost(Exception):
    """A rank's process is gone; the message says how."""


def _all(references: list[Any], patience: float | None = None) -> list[Any]:
    """The values of all references.

    Raises RankLost, or WorkError with what a rank raised, or where none of them is there within
    `patience` seconds after the one before.
    """
    import ray
    from ray.exceptions import RayTaskError

    waiting, failed = list(references), list[Exception]()
    while waiting and not failed:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=patience)
        if not done:
            which = "1 rank" if len(waiting) == 1 else f"{len(waiting)} ranks"
            raise WorkError(f"compute.ray: {which} did not start within {patience:g} s")
        failed += _failures(done)
    if failed:
        ended, _ = (
            ray.wait(waiting, num_returns=len(waiting), timeout=GRACE) if waiting else ([], [])
        )
        failed += _failures(ended)
        deaths = [failure for failure in failed if not isinstance(failure, RayTaskError)]
        if deaths:
            raise RankLost(str(deaths[0]).strip().splitlines()[0])
        raise WorkError(f"update: a rank failed: {in_words(failed[0])}") from failed[0]
    return ray.get(references)


def _failures(references: list[Any]) -> list[Exception]:
    import ray
    from ray.exceptions import RayError

    failures: list[Exception] = []
    for reference in references:
        try:
            ray.get(reference)
        except RayError as error:
            failures.append(error)
    return failures
