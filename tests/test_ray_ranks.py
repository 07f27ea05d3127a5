"""Ranks on a local Ray, and a whole iteration there: the same bytes as on one machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import pytest
from test_ranks import update, write_first

from tasks.run import opened, perform
from tasks.workspace import Workspace
from treepo.cluster import connection
from treepo.cluster.connection import Cluster
from treepo.cluster.ranks import Ranks
from treepo.errors import WorkError
from treepo.launch import Task, launch
from treepo.loading import load_experiment
from treepo.params import RayParams

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


class Silent:
    """A rank that never says anything, or whose machine is not there."""

    def meet(self) -> None:
        Event().wait()


class Rescheduling:
    """Places of which some were on a machine that is gone."""

    def wait(self, timeout: float) -> bool:
        return False


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
def test_ranks_that_do_not_start_are_not_waited_for(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_first(tmp_path)
    task = update(tmp_path, "first", "after", ranks=2)
    monkeypatch.setattr("treepo.cluster.ranks.Rank", Silent)
    with (
        closing(Cluster(RayParams(rank_cpus=1, deadline=2.0))) as joined,
        closing(Ranks(joined)) as ranks,
    ):
        with pytest.raises(WorkError, match=r"^compute\.ray: 1 rank did not start within 2 s$"):
            ranks.launch(2, task)
        (room,) = ranks._rooms.values()
        lost = replace(room, group=Rescheduling())
        monkeypatch.setattr(connection, "_give_back", lambda _: None)
        ranks._rooms, joined._rooms = {2: lost}, [room, lost]
        with pytest.raises(WorkError, match=r"no room for 2 ranks \(1 CPU each, PACK\) within 2 s"):
            ranks.launch(2, task)
        monkeypatch.undo()
        assert joined._rooms == [room]


@pytest.mark.slow
def test_an_iteration_is_the_same_bytes_here_and_on_a_cluster(
    cluster: None, tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text(EXPERIMENT)
    on_ray = ["compute.kind=ray", "compute.ray.replicas=2"]
    made = [
        iterated(Workspace(tmp_path / kind, "x"), tmp_path / "x.yaml", kind, overrides)
        for kind, overrides in (("local", []), ("ray", on_ray))
    ]
    assert made[0] == made[1]
    assert {"iterations/000001/forest.parquet", "evaluation/000001.parquet"} <= set(made[0])


def iterated(workspace: Workspace, file: Path, kind: str, overrides: list[str]) -> dict[str, bytes]:
    """The artifacts of an experiment of one iteration, but for what tells how it was made."""
    workspace.root.mkdir(parents=True)
    with opened(workspace, load_experiment(file, overrides)) as context:
        for name in ("prepare", "warm_up"):
            perform(name, context, 0)
        for name in ("rollout", "score", "advantage", "update", "evaluate"):
            perform(name, context, 1)
        assert all("compute" not in record.params for record in context.lineage)
        assert {record.device["compute"] for record in context.lineage} == {kind}
    artifacts = content(workspace.root)
    return {name: data for name, data in artifacts.items() if name.count("/")}
