"""A policy's weights from the driver's model into those of the replicas, device to device.

NCCL between GPUs, Gloo between CPUs. Who takes part meets anew for each policy: no group outlives
a replica that is lost.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

dist: Any = torch.distributed  # what is used of it is untyped
SENDER = 0
PATIENCE = timedelta(seconds=60)  # for all to come, and then for each tensor


@dataclass(frozen=True)
class Meeting:
    """Where the members meet: the sender's address. members: with the sender."""

    address: str
    port: int
    members: int


@dataclass(frozen=True)
class Sender:
    """The driver's side: open from before the receivers are called until they have received."""

    meeting: Meeting
    store: Any

    @classmethod
    def at(cls, address: str, receivers: int) -> Sender:
        """One that is reached at this address."""
        store = dist.TCPStore(address, 0, is_master=True, timeout=PATIENCE, wait_for_workers=False)
        return cls(Meeting(address, store.port, receivers + 1), store)

    def send(self, model: nn.Module) -> None:
        """Raises RuntimeError where a receiver does not come, or is lost."""
        _broadcast(self.store, SENDER, self.meeting.members, model)


def receive(meeting: Meeting, member: int, model: nn.Module) -> None:
    """Overwrite the weights of `model`, which has the shapes of the sender's; member: from 1 on.

    Raises RuntimeError where another does not come, or is lost; the weights are then a mixture.
    """
    store = dist.TCPStore(meeting.address, meeting.port, timeout=PATIENCE)
    _broadcast(store, member, meeting.members, model)


def shapes(model: nn.Module) -> tuple[tuple[torch.Size, torch.dtype], ...]:
    """Of all weights in their order: they must be alike in sender and receivers."""
    return tuple((weight.shape, weight.dtype) for weight in _weights(model))


def _weights(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


@torch.no_grad()
def _broadcast(store: Any, member: int, members: int, model: nn.Module) -> None:
    weights = _weights(model)
    group: Any = _group(store, member, members, weights[0].device)
    options = dist.BroadcastOptions()
    options.rootRank = SENDER
    for weight in weights:
        group.broadcast([weight.data], options).wait()
    if weights[0].is_cuda:
        torch.cuda.synchronize(weights[0].device)


def _group(store: Any, member: int, members: int, device: torch.device) -> Any:
    if device.type == "cpu":
        return dist.ProcessGroupGloo(store, member, members, PATIENCE)
    # Otherwise its watchdog would end the process of whoever waits for one that is lost.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    torch.cuda.set_device(device)
    chosen: Any = dist.ProcessGroupNCCL.Options()
    chosen._timeout = PATIENCE
    return dist.ProcessGroupNCCL(store, member, members, chosen)
