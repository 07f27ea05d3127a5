"""Parameters of where sampling and updates happen; they change how fast, not what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from treepo.params.base import Natural, Params, Positive


class RayParams(Params):
    """Replicas that sample and ranks that train, as actors of a Ray cluster."""

    address: str | None = Field(
        default=None,
        pattern=r"^(auto|[^\s:/]+:\d{1,5})$",
        description="of the cluster's head, host:port; 'auto': the one that runs on this machine; "
        "null: start a Ray on this machine for the run",
    )
    replicas: Positive = Field(default=1, description="engines that share an iteration's trees")
    replica_cpus: float = Field(
        default=1.0, ge=0, description="that Ray sets aside for a replica; its threads are engine's"
    )
    replica_gpus: float = Field(default=0.0, ge=0, description="that Ray gives a replica")
    rank_cpus: float = Field(
        default=1.0, ge=0, description="that Ray sets aside for a rank of update.ranks 2 or more"
    )
    rank_gpus: float = Field(default=0.0, ge=0, description="that Ray gives a rank")
    hold: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="of an equal part of the unfinished trees, what a replica may hold at once, "
        "one perhaps before its engine has room. Less leaves more for whoever is free, and batches "
        "less full",
    )
    weights: Literal["store", "broadcast"] = Field(
        default="store",
        description="how a policy reaches the replicas; 'store': as files, through Ray's object "
        "store; 'broadcast': from the driver's model into theirs, by NCCL on GPUs, by Gloo on CPUs "
        "(engine 'torch'; a replica that is new gets files)",
    )
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        default="PACK",
        description="of replicas, and of ranks: on few nodes, or on many; STRICT: on one, or each "
        "on its own",
    )
    retries: Natural = Field(
        default=2, description="replacements in a row of replicas, or of all ranks, that were lost"
    )
    deadline: float = Field(
        default=900.0,
        gt=0,
        description="longest wait for machines to join the cluster of an address, for room on it, "
        "and then for ranks to start or some replica to have loaded the policy [s]",
    )
    tolerance: float | None = Field(
        default=None,
        gt=0,
        description="largest difference of a replica's logprob from the model's after a load "
        "[nats]; null: engine.vllm.tolerance or engine.server.tolerance, as engine.name says, and "
        "1e-3 for 'torch': where engine.dtype is narrower than the trainer's, set it",
    )


class ComputeParams(Params):
    """Where sampling and updates happen. No step reads it: artifacts do not misfit by it."""

    kind: Literal["local", "ray"] = Field(
        default="local", description="'local': this machine; 'ray': actors of a Ray cluster"
    )
    ray: RayParams = Field(default=RayParams(), description="of the kind 'ray'")
