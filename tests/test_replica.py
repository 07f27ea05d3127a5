"""A replica in this process, or in one without Ray: what it keeps, tells and leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_policies import ENGINE, WAY, policy_in

from treepo.cluster.parcels import packed, unpack
from treepo.cluster.replica import (
    Asks,
    Failed,
    Finished,
    Load,
    Loaded,
    NoneForNow,
    Numbered,
    Replica,
    Setup,
)
from treepo.cluster.replicas import Replicas, Seat
from treepo.cluster.scratch import PREFIX, Scratch
from treepo.engines.hosts import StoredPolicy
from treepo.engines.orders import TreeOrder
from treepo.errors import WorkError
from treepo.forest import Forest
from treepo.params import EngineParams, RayParams
from treepo.sampling import Prompt

# A plugin that ends the process of a replica, as it believes.
LEAVES = "raise SystemExit('no licence')"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredPolicy:
    return policy_in(tmp_path_factory.mktemp("policy"), seed=0)


def test_parcels_hold_folders_and_files(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/one").write_bytes(b"1")
    (tmp_path / "a/b/two").write_bytes(b"")
    unpack(packed(tmp_path / "a"), tmp_path / "c")
    assert (tmp_path / "c/one").read_bytes() == b"1"
    assert (tmp_path / "c/b/two").read_bytes() == b""
    assert list(packed(tmp_path / "a", without="b")) == ["one"]
    unpack(packed(tmp_path / "a/one"), tmp_path / "d")
    assert (tmp_path / "d").read_bytes() == b"1"


def test_a_replica_forgets_a_run_that_failed_and_leaves_no_files(
    stored: StoredPolicy, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    replica = Replica(Setup(ENGINE, (), 1))
    (failed,) = replica.begin(Load("broken", packed(tmp_path / "broken")), WAY)
    assert isinstance(failed, Failed)
    assert not [*temporary.rglob("*.json")]
    replica.finish()
    events = replica.begin(Load("whole", packed(stored.folder)), WAY)
    while not any(isinstance(event, Asks) for event in events):
        events += replica.exchange(())
    assert isinstance(events[0], Loaded)
    replica.finish()
    assert [*temporary.rglob("*.json")]
    replica.close()
    assert not [*temporary.iterdir()]


def asks(folder: Path) -> None:
    """A replica that waits for its first tree when its process is to end."""
    replica = Replica(Setup(ENGINE, (), 1))
    events = replica.begin(Load("whole", packed(folder)), WAY)
    while not any(isinstance(event, Asks) for event in events):
        events += replica.exchange(())
    replica.close()


def test_a_replica_that_still_waits_for_trees_can_end(stored: StoredPolicy) -> None:
    """Ray lets an actor to which nobody refers end by itself."""
    process = get_context("spawn").Process(target=asks, args=(stored.folder,))
    process.start()
    process.join(120)
    ended = process.exitcode
    process.kill()
    assert ended == 0


def test_the_next_tree_is_asked_for_while_one_grows(
    stored: StoredPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treepo.cluster.replica.LINGER", 60.0)
    one_at_a_time = ENGINE.model_copy(update={"rows": 1})
    replica = Replica(Setup(one_at_a_time, (), 1))
    with closing(replica):
        events = replica.begin(Load("whole", packed(stored.folder)), WAY)
        while not any(isinstance(event, Asks) for event in events):
            events += replica.exchange(())
        orders = [TreeOrder(Prompt(f"p{number}", [4, 5]), seed=0) for number in range(2)]
        events = replica.exchange([Numbered(0, orders[0])])
        assert events[0] == Asks(ahead=True)
        # The second question comes with the tree that made room for its answer.
        events += replica.exchange([Numbered(1, orders[1])])
        assert [type(event) for event in events] == [Asks, Finished, Asks]
        replica.finish()


def test_a_replica_that_could_have_no_tree_ahead_asks_when_it_has_room(
    stored: StoredPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treepo.cluster.replica.LINGER", 60.0)
    replica = Replica(Setup(ENGINE.model_copy(update={"rows": 1}), (), 1))
    with closing(replica):
        events = replica.begin(Load("whole", packed(stored.folder)), WAY)
        while Asks() not in events:
            events += replica.exchange(())
        orders = [TreeOrder(Prompt(f"p{number}", [4, 5]), seed=0) for number in range(2)]
        assert replica.exchange([Numbered(0, orders[0])])[0] == Asks(ahead=True)
        events = replica.exchange([NoneForNow()])
        assert [type(event) for event in events] == [Finished, Asks]
        assert events[1] == Asks()
        assert replica.exchange([Numbered(1, orders[1])])[0] == Asks(ahead=True)
        replica.finish()


def test_nothing_waits_that_comes_with_a_question(
    stored: StoredPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("treepo.cluster.replica.LINGER", 600.0)
    with closing(Replica(Setup(ENGINE, (), 1))) as replica:
        finished = Finished(0, Forest.from_trees([]))
        replica._events.put(Asks(ahead=True))
        replica._events.put(finished)
        assert replica.exchange(()) == [Asks(ahead=True), finished]


def test_threads_that_are_more_than_the_cores_are_told_once(caplog: Any) -> None:
    joined: Any = SimpleNamespace(params=RayParams(replicas=2))
    replicas = Replicas(joined, Setup(ENGINE, (), 2))
    seats = [replicas._seats.setdefault(number, Seat(number, None)) for number in range(2)]

    def told(host: str, cores: int, threads: int) -> int:
        caplog.clear()
        for seat in seats:
            seat.host = ""
        for seat in seats:
            loaded = Loaded(Forest.from_trees([]), host, cores, threads)
            replicas.crowded(seat, loaded)
        return len(caplog.records)

    assert told("roomy", 4, 2) == 0
    assert told("elsewhere", 2, 0) == 0  # it computes on a GPU, or in processes of its own
    assert told("small", 2, 2) == 1
    assert "2 replicas of 2 threads share the 2 cores of small" in caplog.text
    assert "set engine.threads to 1" in caplog.text
    assert told("small", 2, 2) == 0


def test_folders_of_actors_that_were_killed_go_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lives = Scratch()
    kept = lives.folder()
    code = "import os, treepo.cluster.scratch as s; s.Scratch().folder(); os.kill(os.getpid(), 9)"
    killed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert len([*tmp_path.glob(f"{PREFIX}*/*")]) == 2
    Scratch().close()
    assert [*tmp_path.glob(f"{PREFIX}*/*")] == [kept]
    lives.close()
    assert not [*tmp_path.iterdir()]


def test_the_driver_is_told_of_a_plugin_that_ends_the_process(
    stored: StoredPolicy, tmp_path: Path
) -> None:
    (tmp_path / "leaves.py").write_text(LEAVES)
    replica = Replica(Setup(ENGINE, (str(tmp_path / "leaves.py"),), 1))
    with closing(replica):
        (failed,) = replica.begin(Load("whole", packed(stored.folder)), WAY)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, WorkError)
    assert str(failed.error) == "compute.ray: a replica ended: SystemExit: no licence"


@pytest.mark.parametrize(
    ("engine", "settings", "tolerance"),
    [
        ({}, {}, 1e-3),
        ({"name": "vllm", "vllm": {"tolerance": 0.2}}, {}, 0.2),
        ({"name": "server", "server": {"tolerance": 0.1}}, {}, 0.1),
        ({"name": "vllm", "vllm": {"tolerance": 0.2}}, {"tolerance": 0.3}, 0.3),
    ],
)
def test_a_replica_is_as_exact_as_its_engine_must_be(
    engine: dict[str, Any], settings: dict[str, Any], tolerance: float
) -> None:
    joined: Any = SimpleNamespace(params=RayParams(**settings))
    setup = Setup(EngineParams.model_validate(engine), (), 1)
    assert Replicas(joined, setup).tolerance == tolerance
