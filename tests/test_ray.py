"""Replicas and ranks on a local Ray: the same bytes as on one machine, whoever dies."""

from __future__ import annotations

import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ranks import update, write_first

from tasks.resources import Resources
from tasks.run import opened, perform
from tasks.workspace import Workspace
from treepo.cluster import connection
from treepo.cluster.connection import Cluster
from treepo.cluster.hand_out import HandOut
from treepo.cluster.parcels import packed, unpack
from treepo.cluster.ranks import Ranks
from treepo.cluster.replica import Asks, Failed, Load, Loaded, Replica, Setup
from treepo.cluster.replicas import Replicas
from treepo.compute import COMPUTES
from treepo.engines.hosts import StoredPolicy
from treepo.engines.orders import TreeOrder, Way
from treepo.errors import UserError, WorkError
from treepo.forest import Forest
from treepo.launch import Task, launch
from treepo.loading import load_experiment
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
EXPERIMENT = """
iterations: 1
data: {train_size: 8, heldout_size: 2, max_prompt_tokens: 64}
model: {hidden_size: 32, layers: 1, heads: 2, kv_heads: 1, intermediate_size: 32}
rollout: {prompts: 5}
engine: {threads: 1, deterministic: true}
sampling: {width: 4, depth: 3, segment_length: 8, fallback: {candidates: high_value}}
evaluation: {samples: 2, max_tokens: 16}
scoring: {verifier: numeric, workers: 1}
advantage: {query_filter: false}
update: {warm_up_steps: 0, ranks: 2}
"""


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
def cluster() -> Iterator[None]:
    """A local Ray with room for two replicas and two ranks; its processes find the tests."""
    import ray

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    os.environ.update(connection.QUIET, PYTHONPATH=str(Path(__file__).parent))
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
    del os.environ["PYTHONPATH"]
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredPolicy:
    return policy_in(tmp_path_factory.mktemp("policy"), seed=0)


def policy_in(folder: Path, seed: int) -> StoredPolicy:
    policy: Policy = initial_policy(MODEL, seed)
    save_policy(policy, folder)
    return StoredPolicy(policy, folder, f"seed {seed}")


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
    sampler = replicas.trees(stored, WAY)
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
        sampler = single.trees(stored, WAY)
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
    assert not [*temporary.iterdir()]
    replica.finish()
    events = replica.begin(Load("whole", packed(stored.folder)), WAY)
    while not any(isinstance(event, Asks) for event in events):
        events += replica.exchange(())
    assert isinstance(events[0], Loaded)
    replica.finish()
    assert [*temporary.iterdir()]
    replica.close()
    assert not [*temporary.iterdir()]


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
    trees = dict(replicas.trees(stored, WAY).run(ORDERS))
    assert len(lost) == 2
    assert forest_of(trees).to_arrow().equals(alone.to_arrow())


@pytest.mark.slow
@pytest.mark.parametrize("finished", [0, 3])
def test_a_replica_that_is_killed_changes_no_byte(
    replicas: Replicas, stored: StoredPolicy, alone: Forest, finished: int
) -> None:
    process = process_of(replicas, 0)
    running = replicas.trees(stored, WAY).run(ORDERS)
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
    trees = dict(replicas.trees(other, WAY).run(ORDERS))
    assert not forest_of(trees).to_arrow().equals(alone.to_arrow())
    again = dict(replicas.trees(stored, WAY).run(ORDERS))
    assert forest_of(again).to_arrow().equals(alone.to_arrow())
    assert [process_of(replicas, number) for number in range(2)] == before


@pytest.mark.slow
def test_other_weights_than_the_drivers_are_noticed(
    replicas: Replicas, stored: StoredPolicy, tmp_path: Path
) -> None:
    wrong = replace(policy_in(tmp_path, seed=1), policy=stored.policy, version="wrong")
    with pytest.raises(WorkError, match="does not sample the policy"):
        list(replicas.trees(wrong, WAY).run(ORDERS))


@pytest.mark.slow
def test_a_users_mistake_is_told_as_on_one_machine(
    replicas: Replicas, stored: StoredPolicy
) -> None:
    long = replace(WAY, sampling=SamplingParams(width=4, depth=1, segment_length=100_000))
    with pytest.raises(UserError, match="lower data"):
        list(replicas.trees(stored, long).run(ORDERS))


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
        trees = dict(two.trees(stored, WAY).run(ORDERS))
        assert forest_of(trees).to_arrow().equals(alone.to_arrow())
        for number in range(2):  # until both are ready: the first trees did not wait for that
            process_of(two, number)
        took.clear()
        dict(two.trees(stored, WAY).run(ORDERS))
        fewer, more = sorted((took[0], took[1]))  # perhaps none
        assert fewer < more
        kill(two, 0)
        running = two.trees(stored, WAY).run(ORDERS)
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


@dataclass(frozen=True)
class Dying:
    """A task in which a rank dies the first time."""

    work: Task
    marker: Path

    @property
    def reads(self) -> Mapping[str, Path]:
        return self.work.reads

    @property
    def writes(self) -> Mapping[str, Path]:
        return self.work.writes

    def at(self, places: Mapping[str, Path]) -> Dying:
        return replace(self, work=self.work.at(places))

    def do(self) -> None:
        if os.environ["RANK"] == "1":
            with suppress(FileExistsError):
                self.marker.touch(exist_ok=False)
                os._exit(7)
        self.work.do()


@dataclass(frozen=True)
class Unlucky(Dying):
    """A task that fails."""

    def do(self) -> None:
        raise ValueError("no luck")


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.mark.slow
def test_ranks_of_a_cluster_make_the_policy_of_local_ones(cluster: None, tmp_path: Path) -> None:
    write_first(tmp_path)
    here, there = (update(tmp_path, "first", name, ranks=2) for name in ("here", "there"))
    launch(2, here.do)
    with (
        closing(Cluster(RayParams(rank_cpus=1))) as joined,
        closing(Ranks(joined)) as ranks,
    ):
        ranks.launch(2, Dying(there, tmp_path / "dead"))
        assert (tmp_path / "dead").exists()
        assert content(tmp_path / "there") == content(tmp_path / "here")
        assert (tmp_path / "there.json").read_text() == (tmp_path / "here.json").read_text()
        ranks.launch(2, update(tmp_path, "there", "on", ranks=2))  # by the same processes
        assert (tmp_path / "on/model.safetensors").exists()
        with pytest.raises(WorkError, match="update: a rank failed: ValueError: no luck"):
            ranks.launch(2, Unlucky(there, tmp_path / "dead"))


@pytest.mark.slow
def test_an_iteration_is_the_same_bytes_here_and_on_a_cluster(
    cluster: None, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(EXPERIMENT)
    on_ray = ["compute.kind=ray", "compute.ray.replicas=2"]
    made = [
        iterated(Workspace(tmp_path / name, "x"), tmp_path / "x.yaml", overrides)
        for name, overrides in (("here", []), ("there", on_ray))
    ]
    assert made[0] == made[1]
    assert {"iterations/000001/forest.parquet", "evaluation/000001.parquet"} <= set(made[0])


def iterated(workspace: Workspace, file: Path, overrides: list[str]) -> dict[str, bytes]:
    """The artifacts of an experiment of one iteration, but for what tells how it was made."""
    workspace.root.mkdir(parents=True)
    with opened(workspace, load_experiment(file, overrides)) as context:
        for name in ("prepare", "warm_up"):
            perform(name, context, 0)
        for name in ("rollout", "score", "advantage", "update", "evaluate"):
            perform(name, context, 1)
        assert all("compute" not in record.params for record in context.lineage)
    artifacts = content(workspace.root)
    return {name: data for name, data in artifacts.items() if name.count("/")}
