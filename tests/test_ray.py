"""Replicas on a local Ray: the same bytes as on one machine, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.resources import Resources
from treepo.cluster import connection
from treepo.cluster.broadcast import Sender
from treepo.cluster.connection import Cluster, Room
from treepo.cluster.hand_out import HandOut
from treepo.cluster.parcels import Parcel, packed, unpack
from treepo.cluster.ray_trees import RayTrees
from treepo.cluster.replica import Asks, Failed, Load, Loaded, Replica, Setup
from treepo.cluster.replicas import Replicas
from treepo.cluster.scratch import PREFIX, Scratch
from treepo.compute import COMPUTES
from treepo.engines.hosts import StoredPolicy
from treepo.engines.orders import TreeOrder, Way
from treepo.errors import UserError, WorkError
from treepo.forest import Forest
from treepo.models import Policy, initial_policy, save_policy
from treepo.params import (
    ComputeParams,
    EngineParams,
    ModelParams,
    RayParams,
    SamplingParams,
    ScoringParams,
)
from treepo.sampling import Prompt
from treepo.tree import Tree

# With room for two trees: the others are handed out later.
ENGINE = EngineParams(deterministic=True, threads=1, rows=2)
MODEL = ModelParams(hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64)
WAY = Way(SamplingParams(width=4, depth=3, segment_length=8), ScoringParams(verifier="numeric"))
ORDERS = [TreeOrder(Prompt(f"p{index}", [5, 6, 7 + index]), seed=3) for index in range(10)]
NOBODY = "127.0.0.1:1"
# Whichever replica is there first is slow.
SLOW = """
import os, time
from pathlib import Path
from treepo.engines.torch_tree import Batch

try:
    os.close(os.open(Path(__file__).with_suffix(".taken"), os.O_CREAT | os.O_EXCL))
except FileExistsError:
    pass
else:
    step = Batch._step

    def slow(self, waiting):
        time.sleep(0.2)
        return step(self, waiting)

    Batch._step = slow
"""


# A plugin that ends the process of a replica, as it believes.
LEAVES = "raise SystemExit('no licence')"


def of_ray(**settings: Any) -> ComputeParams:
    return ComputeParams(kind="ray", ray=RayParams(**settings))


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


def nobody_came(*_: Any) -> None:
    raise RuntimeError("nobody came")


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


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredPolicy:
    return policy_in(tmp_path_factory.mktemp("policy"), seed=0)


def policy_in(folder: Path, seed: int, **shape: int) -> StoredPolicy:
    policy: Policy = initial_policy(MODEL.model_copy(update=shape), seed)
    save_policy(policy, folder)
    return StoredPolicy(policy, folder, f"seed {seed} {shape}")


@pytest.fixture(scope="module")
def alone(stored: StoredPolicy) -> Forest:
    """What this process makes of the orders."""
    with closing(COMPUTES.get("local")(ComputeParams(), ())) as compute:
        trees = dict(
            compute.trees(stored, ENGINE, WAY, lambda: pytest.fail("no judge")).run(ORDERS)
        )
    return forest_of(trees)


def forest_of(trees: Mapping[int, Tree]) -> Forest:
    return Forest.from_trees(trees[index] for index in range(len(ORDERS)))


@pytest.fixture(scope="module")
def replicas(cluster: None) -> Iterator[Replicas]:
    """Two that stay over the tests."""
    with (
        closing(Cluster(RayParams(replicas=2))) as joined,
        closing(Replicas(joined, Setup(ENGINE, (), 1))) as opened,
    ):
        yield opened


def kill(replicas: Replicas, number: int) -> None:
    """SIGKILL. Not in a run, in which a replica has no time to say who it is."""
    os.kill(process_of(replicas, number), signal.SIGKILL)


def process_of(replicas: Replicas, number: int) -> int:
    import ray

    return ray.get(replicas.seats()[number].actor.process.remote())


@pytest.mark.slow
def test_two_replicas_make_the_bytes_of_one_and_of_none(
    replicas: Replicas, stored: StoredPolicy, alone: Forest
) -> None:
    sampler = RayTrees(replicas, stored, WAY)
    assert forest_of(dict(sampler.run(ORDERS))).to_arrow().equals(alone.to_arrow())
    assert sampler.stats().decode_tokens == alone.sampled_tokens


@pytest.mark.slow
def test_one_replica_makes_the_same_bytes_and_long_trees_first_when_it_knows_them(
    cluster: None, stored: StoredPolicy, alone: Forest
) -> None:
    one_by_one = Setup(ENGINE.model_copy(update={"rows": 1}), (), 1)
    with (
        closing(Cluster(RayParams(replicas=1))) as joined,
        closing(Replicas(joined, one_by_one)) as single,
    ):
        sampler = RayTrees(single, stored, WAY)
        first, second = dict(sampler.run(ORDERS)), dict(sampler.run(ORDERS))
    sizes = {at: Forest.from_trees([tree]).sampled_tokens for at, tree in first.items()}
    assert len({*sizes.values()}) > 3
    assert list(first) == list(range(len(ORDERS)))
    assert list(second) == sorted(sizes, key=lambda at: -sizes[at])
    for trees in (first, second):
        assert forest_of(trees).to_arrow().equals(alone.to_arrow())


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


def test_replicas_do_not_load_policies_into_the_same_servers(stored: StoredPolicy) -> None:
    engine = EngineParams(name="server")
    with (
        closing(COMPUTES.get("ray")(of_ray(), ())) as compute,
        pytest.raises(UserError, match=r"engine\.server\.weights: .* set it to 'served'"),
    ):
        compute.trees(stored, engine, WAY, lambda: pytest.fail("no judge"))


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
def test_what_a_replica_raises_is_told_in_one_line(
    replicas: Replicas, stored: StoredPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray.exceptions import RayTaskError

    def raising(reference: Any) -> Any:
        raise RayTaskError("exchange", "Traceback\nmuch more", ValueError("no luck\nat all"))

    monkeypatch.setattr(ray, "get", raising)
    with pytest.raises(WorkError) as caught:
        list(RayTrees(replicas, stored, WAY).run(ORDERS))
    assert str(caught.value) == "compute.ray: a replica failed: ValueError: no luck"


@pytest.mark.slow
def test_an_answer_that_is_lost_with_its_machine_changes_no_byte(
    replicas: Replicas, stored: StoredPolicy, alone: Forest, monkeypatch: Any
) -> None:
    import ray
    from ray.exceptions import ObjectLostError

    get, lost = ray.get, list[Any]()

    def losing(reference: Any) -> Any:
        if len(lost) < 2:
            lost.append(reference)
            raise ObjectLostError(reference.hex(), "", "")
        return get(reference)

    monkeypatch.setattr(ray, "get", losing)
    trees = dict(RayTrees(replicas, stored, WAY).run(ORDERS))
    assert len(lost) == 2
    assert forest_of(trees).to_arrow().equals(alone.to_arrow())


@pytest.mark.slow
@pytest.mark.parametrize("finished", [0, 3])
def test_a_replica_that_is_killed_changes_no_byte(
    replicas: Replicas, stored: StoredPolicy, alone: Forest, finished: int
) -> None:
    process = process_of(replicas, 0)
    running = RayTrees(replicas, stored, WAY).run(ORDERS)
    trees = dict(islice(running, finished))
    os.kill(process, signal.SIGKILL)
    trees.update(running)
    assert len(trees) == len(ORDERS)
    assert forest_of(trees).to_arrow().equals(alone.to_arrow())
    assert process_of(replicas, 0) != process


@pytest.mark.slow
def test_the_next_policy_goes_to_the_same_processes(
    replicas: Replicas, stored: StoredPolicy, alone: Forest, tmp_path: Path
) -> None:
    before = [process_of(replicas, number) for number in range(2)]
    other = policy_in(tmp_path, seed=1)
    trees = dict(RayTrees(replicas, other, WAY).run(ORDERS))
    assert not forest_of(trees).to_arrow().equals(alone.to_arrow())
    again = dict(RayTrees(replicas, stored, WAY).run(ORDERS))
    assert forest_of(again).to_arrow().equals(alone.to_arrow())
    assert [process_of(replicas, number) for number in range(2)] == before


@pytest.mark.slow
def test_a_policy_that_is_broadcast_samples_as_one_from_files(
    cluster: None,
    stored: StoredPolicy,
    alone: Forest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent: list[Path] = []

    def spied(folder: Path, without: str | None = None) -> Parcel:
        sent.append(folder)
        return packed(folder, without)

    monkeypatch.setattr("treepo.cluster.replicas.packed", spied)
    other = policy_in(tmp_path / "other", seed=1)
    with Resources() as here:
        trees = here.trees(other.folder, ENGINE, WAY.sampling, WAY.scoring)
        expected = forest_of(dict(trees.run(ORDERS))).to_arrow()
    params = RayParams(replicas=2, weights="broadcast")
    with closing(Cluster(params)) as joined, closing(Replicas(joined, Setup(ENGINE, (), 1))) as two:

        def sampled(policy: StoredPolicy) -> Any:
            return forest_of(dict(RayTrees(two, policy, WAY).run(ORDERS))).to_arrow()

        while {seat.version for seat in two.seats()} != {stored.version}:
            assert sampled(stored).equals(alone.to_arrow())
        processes = [process_of(two, number) for number in range(2)]
        assert sampled(other).equals(expected)
        assert [process_of(two, number) for number in range(2)] == processes
        assert sent == [stored.folder]
        kill(two, 0)  # the other one gets it alone
        assert sampled(stored).equals(alone.to_arrow())
        assert process_of(two, 1) == processes[1]
        shallow = policy_in(tmp_path / "shallow", seed=0, layers=1)
        assert not sampled(shallow).equals(alone.to_arrow())
        assert sent[-1] == shallow.folder
        while {seat.version for seat in two.seats()} != {stored.version}:
            assert sampled(stored).equals(alone.to_arrow())
        assert not caplog.records
        monkeypatch.setattr(Sender, "send", nobody_came)
        assert sampled(other).equals(expected)
        assert sent[-1] == other.folder
        assert "broadcast failed (nobody came)" in caplog.text


@pytest.mark.slow
def test_other_weights_than_the_drivers_are_noticed(
    replicas: Replicas, stored: StoredPolicy, tmp_path: Path
) -> None:
    wrong = replace(policy_in(tmp_path, seed=1), policy=stored.policy, version="wrong")
    with pytest.raises(WorkError, match="does not sample the policy"):
        list(RayTrees(replicas, wrong, WAY).run(ORDERS))


@pytest.mark.slow
def test_a_users_mistake_is_told_as_on_one_machine(
    replicas: Replicas, stored: StoredPolicy
) -> None:
    long = replace(WAY, sampling=SamplingParams(width=4, depth=1, segment_length=100_000))
    with pytest.raises(UserError, match="lower data"):
        list(RayTrees(replicas, stored, long).run(ORDERS))


@pytest.mark.slow
def test_a_slow_replica_gets_fewer_trees_and_losses_are_limited(
    cluster: None, stored: StoredPolicy, alone: Forest, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    took: Counter[int] = Counter()
    finish = HandOut.finish

    def counted(self: HandOut, replica: int, tree: int) -> None:
        took[replica] += 1
        finish(self, replica, tree)

    monkeypatch.setattr(HandOut, "finish", counted)
    setup = Setup(ENGINE, (str(tmp_path / "slow.py"),), 1)
    params = RayParams(replicas=2, replica_cpus=0.5, retries=0)
    with closing(Cluster(params)) as joined, closing(Replicas(joined, setup)) as two:
        trees = dict(RayTrees(two, stored, WAY).run(ORDERS))
        assert forest_of(trees).to_arrow().equals(alone.to_arrow())
        for number in range(2):  # until both are ready: the first trees did not wait for that
            process_of(two, number)
        took.clear()
        dict(RayTrees(two, stored, WAY).run(ORDERS))
        fewer, more = sorted((took[0], took[1]))  # perhaps none
        assert fewer < more
        kill(two, 0)
        running = RayTrees(two, stored, WAY).run(ORDERS)
        with pytest.raises(WorkError, match="a replica was lost"):
            list(running)


@pytest.mark.slow
def test_two_threads_take_turns_at_replicas_that_fill_the_cluster(
    cluster: None, tmp_path: Path
) -> None:
    policies = [policy_in(tmp_path / f"{seed}", seed) for seed in (0, 1)]

    def sampled(resources: Resources, policy: StoredPolicy) -> Forest:
        trees = resources.trees(policy.folder, ENGINE, WAY.sampling, WAY.scoring)
        return forest_of(dict(trees.run(ORDERS)))

    with Resources() as here:
        expected = [sampled(here, policy) for policy in policies]
    with (
        Resources(of_ray(replicas=2, replica_cpus=3)) as one,
        one.beside() as other,
        ThreadPoolExecutor(2) as threads,
    ):
        made = list(threads.map(sampled, (one, other), policies))
    for forest, same in zip(made, expected, strict=True):
        assert forest.to_arrow().equals(same.to_arrow())


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
