"""SIGTERM: the step under way is finished first, so that none of its work is lost.

Who takes a machine back sends it, and kills after a while what is still there. Prefect turns it
into an exception wherever the work stands; here it waits until a step's artifacts have their names.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

from prefect.exceptions import TerminationSignal

from treepo.errors import Stopped


@contextmanager
def finishing() -> Iterator[None]:
    """Within the block SIGTERM waits; at its end it is delivered, unless the block failed."""
    came: list[int] = []
    with _handled(lambda number, _: came.append(number)):
        yield
    if came:
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block SIGTERM raises Stopped, through everything that is to be closed."""
    try:
        with _handled(_terminate):
            yield
    except TerminationSignal:
        raise Stopped from None


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGTERM goes to `handler` within the block; nothing changes outside of the main thread."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, _: FrameType | None) -> None:
    raise TerminationSignal(number)
