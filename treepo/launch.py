"""Starting the processes of an update, where Accelerate finds them.

Knows processes and their environment; of what they run, only which folders that reads and writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
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
    threads, store = threads_of(ranks), open_store("127.0.0.1")
    try:
        spawn(_rank, (ranks, store.port, threads, function, arguments), nprocs=ranks)
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
    """Make this process a rank, as torchrun would. master: host:port of the store."""
    host, _, port = master.rpartition(":")
    names = {"RANK": index, "WORLD_SIZE": ranks, "OMP_NUM_THREADS": threads, **local}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=port)
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store is open: no rank opens it
    torch.set_num_threads(threads)


def threads_of(ranks: int) -> int:
    """Threads of each rank: their share of this process's."""
    return max(1, torch.get_num_threads() // ranks)


def open_store(address: str) -> Any:
    """Where ranks meet, as long as this is kept; `port` is chosen by the system.

    Opened before the ranks are told of it, so that nobody else takes the port meanwhile.
    """
    distributed: Any = torch.distributed  # what is used of it is untyped
    return distributed.TCPStore(address, 0, is_master=True, wait_for_workers=False)
