"""The example files for Kubernetes and Slurm: as far as can be told without either."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml

from treepo.loading import load_experiment
from treepo.params import ExperimentParams

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy/kubernetes"
SCRIPT = ROOT / "deploy/slurm/treepo.sbatch"
PINNED = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def loaded(name: str) -> dict[str, Any]:
    return yaml.safe_load((KUBERNETES / name).read_text())


def cluster_of(content: dict[str, Any]) -> dict[str, Any]:
    spec = content["spec"]
    return spec["rayClusterSpec"] if content["kind"] == "RayJob" else spec


def pods(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["rayStartParams"] is not None
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        yield group["template"]["spec"]


def settings(command: list[str]) -> ExperimentParams:
    """The parameters that a command runs with."""
    assert command[:2] == ["treepo", "run"]
    overrides = [value for flag, value in itertools.pairwise(command) if flag == "--set"]
    return load_experiment(ROOT / f"params/{command[2]}.yaml", overrides)


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kubernetes_files_are_what_the_operator_takes(name: str) -> None:
    content = loaded(name)
    kinds = {"raycluster.yaml": "RayCluster", "rayjob.yaml": "RayJob"}
    assert (content["apiVersion"], content["kind"]) == ("ray.io/v1", kinds[name])
    assert re.fullmatch(r"[a-z0-9-]{1,47}", content["metadata"]["name"])
    cluster = cluster_of(content)
    assert PINNED is not None
    assert cluster["rayVersion"] == PINNED[1]
    assert cluster["authOptions"] == {"mode": "token"}
    for pod in pods(cluster):
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["resources"]["requests"] == container["resources"]["limits"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_job_runs_an_experiment_that_its_cluster_has_room_for() -> None:
    content = loaded("rayjob.yaml")
    compute = settings(shlex.split(content["spec"]["entrypoint"])).compute
    assert (compute.kind, compute.ray.address) == ("ray", "auto")
    there = sum(
        int(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for pod in pods(cluster_of(content))
    )
    assert compute.ray.replicas * compute.ray.replica_gpus < there


def test_the_slurm_script_is_a_script_and_its_parameters_exist() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    text = SCRIPT.read_text()
    assert text.startswith("#!/bin/bash\n")
    assert len(re.findall(r"^#SBATCH --[a-z-]+(=\S+)?$", text, re.MULTILINE)) == 8
    keys = re.findall(r"--set \"?(compute\.[a-z_.]+)=", text)
    known = ExperimentParams().compute.model_dump()
    for key in keys:
        value: Any = {"compute": known}
        for part in key.split("."):
            value = value[part]
    assert "compute.ray.address" in keys


def test_the_extra_is_the_ray_of_the_files() -> None:
    assert any(line.startswith("ray") and "extra" in line for line in requires("treepo") or ())
