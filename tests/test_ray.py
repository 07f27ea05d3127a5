"""Replicas on a local Ray: the same bytes as on one machine, whoever dies."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from small_policies import ENGINE, WAY, policy_in

from tasks.resources import Resources
from treepo.cluster.broadcast import Sender
from treepo.cluster.connection import Cluster
from treepo.cluster.hand_out import HandOut
from treepo.cluster.parcels import Parcel, packed
from treepo.cluster.ray_trees import RayTrees
from treepo.cluster.replica import Setup
from treepo.cluster.replicas import Replicas
from treepo.compute import COMPUTES
from treepo.engines.hosts import StoredPolicy
from treepo.engines.orders import TreeOrder
from treepo.errors import UserError, WorkError
from treepo.forest import Forest
from treepo.params import ComputeParams, EngineParams, RayParams, SamplingParams
from treepo.sampling import Prompt
from treepo.tree import Tree

ORDERS = [TreeOrder(Prompt(f"p{index}", [5, 6, 7 + index]), seed=3) for index in range(10)]


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


def of_ray(**settings: Any) -> ComputeParams:
    return ComputeParams(kind="ray", ray=RayParams(**settings))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredPolicy:
    return policy_in(tmp_path_factory.mktemp("policy"), seed=0)


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


def test_replicas_do_not_load_policies_into_the_same_servers(stored: StoredPolicy) -> None:
    engine = EngineParams(name="server")
    with (
        closing(COMPUTES.get("ray")(of_ray(), ())) as compute,
        pytest.raises(UserError, match=r"engine\.server\.weights: .* set it to 'served'"),
    ):
        compute.trees(stored, engine, WAY, lambda: pytest.fail("no judge"))


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


def nobody_came(*_: Any) -> None:
    raise RuntimeError("nobody came")


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
