"""Starting the processes of an update on this machine, where Accelerate finds them.

Knows processes and their environment; knows nothing of what they run.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessException, spawn

from treepo.errors import WorkError


def launch(ranks: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(*arguments)` in `ranks` processes; they share this process's threads.

    Function and arguments are pickled. Raises WorkError with the last line of what a rank raised;
    the others are ended then.
    """
    threads = max(1, torch.get_num_threads() // ranks)
    try:
        spawn(_rank, (ranks, _free_port(), threads, function, arguments), nprocs=ranks)
    except ProcessException as error:
        line = str(error).strip().splitlines()[-1]
        raise WorkError(f"update: a rank failed: {line}") from None


def _rank(
    index: int,
    ranks: int,
    port: int,
    threads: int,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    names = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS=str(threads))
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(index)
    function(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
