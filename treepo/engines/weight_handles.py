"""A model's weights on a GPU as another process of the same machine can open them: CUDA IPC.

The names and the form are those of vLLM's weight transfer (`vllm.distributed.weight_transfer`), of
which only the receiving side is used: the trainer's process needs no vLLM.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import reduce_tensor


def weight_handles(model: nn.Module) -> dict[str, Any]:
    """The update to send. The model's weights must stay where they are until it was taken in."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    return {
        "names": [*weights],
        "dtype_names": [str(weight.dtype).removeprefix("torch.") for weight in weights.values()],
        "shapes": [[*weight.shape] for weight in weights.values()],
        "ipc_handles": [_handle(weight) for weight in weights.values()],
    }


def _handle(weight: Tensor) -> dict[str, tuple[Any, ...]]:
    """By the GPU's own number, as processes may count GPUs differently."""
    gpu: Any = torch.cuda.get_device_properties(weight.device)
    return {str(gpu.uuid): reduce_tensor(weight)[1]}
