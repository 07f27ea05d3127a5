"""The example files for Kubernetes and Slurm: what validators and stand-ins of both can tell."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from projects import await_file

from treepo.loading import load_experiment
from treepo.params import ExperimentParams

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "deploy/kubernetes"
SCRIPT = ROOT / "deploy/slurm/treepo.sbatch"
PINNED = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

GPU = "nvidia.com/gpu"
# Of two nodes with four GPUs each, in a job's folder. The driver ends with what DRIVER says.
SLURM = {
    "scontrol": 'if [ "$1" = show ]; then printf "a\\nb\\n"; else echo "$@" > requeued; fi',
    "srun": "exec sleep 600",
    "ray": "exit 0",
    "hostname": "echo 10.0.0.1",
    "treepo": """
        trap 'exit 0' TERM
        printf '%s\n' "$CUDA_VISIBLE_DEVICES" treepo "$@" > driver.partial
        mv driver.partial driver
        $DRIVER
    """,
}
JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "nodes",
    "SLURM_CPUS_PER_TASK": "16",
    "SLURM_GPUS_ON_NODE": "4",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3",
}


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


def gpus(pod: dict[str, Any]) -> int:
    return int(pod["containers"][0]["resources"]["limits"][GPU])


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_pods_are_what_kubernetes_takes(name: str) -> None:
    for pod in pods(cluster_of(loaded(name))):
        resource = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_every_pod_has_an_object_store_and_the_drivers_a_gpu_for_itself(name: str) -> None:
    cluster = cluster_of(loaded(name))
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group, pod in zip(groups, pods(cluster), strict=True):
        (memory,) = [volume for volume in pod["volumes"] if volume["name"] == "shared-memory"]
        size = int(memory["emptyDir"]["sizeLimit"].removesuffix("Gi"))
        assert int(group["rayStartParams"]["object-store-memory"]) < size * 2**30
        mounts = {
            mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]
        }
        assert mounts["shared-memory"] == "/dev/shm"
        limit = pod["containers"][0]["resources"]["limits"]["memory"]
        assert size < int(limit.removesuffix("Gi"))
    head = next(pods(cluster))
    assert gpus(head) == 1
    assert groups[0]["rayStartParams"]["num-gpus"] == "0"  # of those that Ray gives away
    assert {"name": "runs", "mountPath": "/runs"} in head["containers"][0]["volumeMounts"]


def test_the_job_runs_an_experiment_that_its_cluster_has_room_for() -> None:
    content = loaded("rayjob.yaml")
    params = settings(shlex.split(content["spec"]["entrypoint"]))
    compute = params.compute
    assert (compute.kind, compute.ray.address) == ("ray", "auto")
    cluster = cluster_of(content)
    there = sum(
        group["replicas"] * gpus(group["template"]["spec"]) for group in cluster["workerGroupSpecs"]
    )
    assert taken(params) == there


def taken(params: ExperimentParams) -> float:
    """GPUs of replicas and ranks; a single rank would be the driver."""
    update, ray = params.update, params.compute.ray
    assert (update.ranks > 1, update.sharding) == (True, "fsdp")
    return ray.replicas * ray.replica_gpus + update.ranks * ray.rank_gpus


def test_only_the_operator_in_another_pod_reaches_the_job_s_cluster() -> None:
    """It hands the job to the dashboard, whose own default is this machine alone."""
    head = cluster_of(loaded("rayjob.yaml"))["headGroupSpec"]
    assert "dashboard-host" not in head["rayStartParams"]  # the operator's default: 0.0.0.0


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Any]:
    """Starts the script in a job of its own, whose driver does what it is given."""
    started: list[subprocess.Popen[bytes]] = []
    for name, text in SLURM.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)

    def start(driver: str) -> subprocess.Popen[bytes]:
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        process = subprocess.Popen(
            ["bash", SCRIPT, "qwen7b", "--set", "iterations=2"],
            cwd=tmp_path,
            env={**os.environ, **JOB, "PATH": path, "DRIVER": driver},
            start_new_session=True,
        )
        started.append(process)
        await_file(tmp_path / "driver", process)
        return process

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_job_whose_time_ends_stops_its_driver_and_is_requeued(job: Any, tmp_path: Path) -> None:
    script = job("eval while :; do sleep 0.1; done")
    device, *command = (tmp_path / "driver").read_text().splitlines()
    assert device == "3"
    params = settings(command)
    assert params.iterations == 2
    assert params.compute.ray.address == "10.0.0.1:6379"
    assert taken(params) == 2 * 4 - 1
    script.send_signal(signal.SIGTERM)  # B: to the script alone
    assert script.wait(60) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_a_job_whose_driver_ends_by_itself_ends_as_that_did(job: Any, tmp_path: Path) -> None:
    assert job("exit 3").wait(60) == 3
    assert not (tmp_path / "requeued").exists()


def test_the_slurm_script_is_a_script() -> None:
    subprocess.run([Path(sys.executable).parent / "shellcheck", SCRIPT], check=True)
    text = SCRIPT.read_text()
    assert text.startswith("#!/bin/bash\n")
    lines = re.findall(r"^#SBATCH .*$", text, re.MULTILINE)
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in lines)
    assert "#SBATCH --signal=B:TERM@1800" in lines  # Ray would end with the others


def test_the_extra_is_the_ray_of_the_files() -> None:
    assert any(line.startswith("ray") and "extra" in line for line in requires("treepo") or ())
