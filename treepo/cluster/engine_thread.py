"""The thread in which a replica's engine works, while others take what the driver says."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


class EngineThread:
    """Does what it is given, one after the other, with `threads` threads of torch's.

    The process may end meanwhile: that of a ThreadPoolExecutor would be waited for, and for ever
    where the engine waits for trees of a driver that is gone.
    """

    def __init__(self, threads: int) -> None:
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        Thread(target=self._run, args=(threads,), name="engine", daemon=True).start()

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """What `work` will return, or raise."""
        future: Future[Result] = Future()
        self._work.put((future, work))
        return future

    def _run(self, threads: int) -> None:
        torch.set_num_threads(threads)
        while True:
            future, work = self._work.get()
            try:
                future.set_result(work())
            except BaseException as error:  # for whoever asked
                future.set_exception(error)
