"""vLLM's worker on a CPU, with files where its weight transfer opens memory of a GPU.

Run as `python -m worker_without_gpu FD`; everything else is vLLM's own.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from treepo.engines.vllm_worker import main

GPU = "a GPU"


def handle(weight: Tensor, folder: Path) -> dict[str, tuple[Any, ...]]:
    """What stands for a handle: as long as a real one, of which the seventh part is the device."""
    file = folder / f"{len([*folder.iterdir()])}.pt"
    torch.save(weight.clone(), file)
    return {GPU: (str(file), *[None] * 6)}


def opened(file: str, *_: Any) -> Tensor:
    return torch.load(file)


if __name__ == "__main__":
    from vllm.distributed.weight_transfer import ipc_engine

    ipc_engine.rebuild_cuda_tensor = opened
    torch.cuda.get_device_properties = lambda _: SimpleNamespace(uuid=GPU)  # type: ignore
    torch.accelerator.synchronize = lambda *_: None  # type: ignore
    main()
