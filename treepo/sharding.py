"""Sharded weights (FSDP2): each rank holds a part of every weight, its gradient and its moments.

A block's weights are whole only while it computes. Accelerate takes FSDP to be for GPUs (on CPU
its plugin is passed over without a word), so PyTorch's own `fully_shard`, to which it leads, is
called here: one way on every device. Knows modules and tensors; knows nothing of updates.

PyTorch's modules for it take a second to import, so only what shards imports them: whether a tensor
is sharded is asked of everybody's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
import transformers
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard(module: nn.Module, model: transformers.PreTrainedModel, device: torch.device) -> None:
    """Leave this rank its parts of all parameters, on its device; all ranks take part.

    module: what is called, around `model`. Gradients are summed into parts in each backward pass,
    divided by the number of ranks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    blocks: list[str] = list(getattr(model, "_no_split_modules", None) or ())
    for block in model.modules():
        if type(block).__name__ in blocks:
            fully_shard(block, mesh=mesh)
    # Embeddings and head, which may be one tensor, are whole in all of the module's forward and
    # backward pass. Not in between, as by default: they would not be the optimizer's parameters.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a rank holds a part of it only."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its parts; of one that is sharded, all ranks must ask."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, on the device of another and sharded as that one."""
    if not is_sharded(like):
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    # Without a source each rank takes its part of its own.
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def make_whole(model: nn.Module, keep: bool) -> None:
    """Put whole parameters in the place of sharded ones, where `keep`; all ranks take part.

    The model can then be written but not trained.
    """
    made: dict[Tensor, nn.Parameter] = {}
    for parameter in model.parameters():  # tied weights are one parameter, before and after
        if is_sharded(parameter):
            full = whole(parameter.detach())
            if keep:
                made[parameter] = nn.Parameter(full.cpu())
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter in made:
                setattr(module, name, made[parameter])
