"""Starting the processes of an update, where Accelerate finds them.

Knows processes and their environment; of what they run, only which folders that reads and writes.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.multiprocessing.spawn import ProcessException, spawn

from treepo.errors import WorkError


class Task(Protocol):
    """What every rank does; it can be pickled, and sent to where its folders are elsewhere."""

    @property
    def reads(self) -> Mapping[str, Path]:
        """Folders that must be there, by the task's own names."""
        ...

    @property
    def writes(self) -> Mapping[str, Path]:
        """Folders and files that the first rank makes."""
        ...

    def at(self, places: Mapping[str, Path]) -> Task:
        """The same with these folders in the place of its own."""
        ...

    def do(self) -> None:
        """Do a rank's share."""
        ...


def launch(ranks: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run `function(*arguments)` in `ranks` processes; they share this process's threads.

    Function and arguments are pickled. Raises WorkError with the last line of what a rank raised;
    the others are ended then.
    """
    threads = threads_of(ranks)
    try:
        spawn(_rank, (ranks, free_port(), threads, function, arguments), nprocs=ranks)
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
    local = {"LOCAL_RANK": index, "LOCAL_WORLD_SIZE": ranks}
    enter(index, ranks, f"127.0.0.1:{port}", threads, local)
    if torch.cuda.is_available():
        torch.cuda.set_device(index)
    function(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def enter(index: int, ranks: int, master: str, threads: int, local: Mapping[str, int]) -> None:
    """Make this process a rank, as torchrun would. master: host:port of the first rank."""
    host, _, port = master.rpartition(":")
    names = {"RANK": index, "WORLD_SIZE": ranks, "OMP_NUM_THREADS": threads, **local}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=port)
    torch.set_num_threads(threads)


def threads_of(ranks: int) -> int:
    """Threads of each rank: their share of this process's."""
    return max(1, torch.get_num_threads() // ranks)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
