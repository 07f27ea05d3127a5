"""SIGTERM waits for the step under way, and ends everything around it in order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
from prefect.exceptions import TerminationSignal

from flows.stopping import finishing, stoppable
from treepo.errors import Stopped


@contextmanager
def closing(done: list[str]) -> Iterator[None]:
    try:
        yield
    finally:
        done.append("closed")


def work(done: list[str]) -> None:
    with stoppable(), closing(done):
        with finishing():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            done.append("step")
        done.append("next step")


def test_the_step_is_finished_and_no_other_begun() -> None:
    before, done = signal.getsignal(signal.SIGTERM), list[str]()
    with pytest.raises(Stopped):
        work(done)
    assert done == ["step", "closed"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_between_steps_it_ends_at_once() -> None:
    done: list[str] = []
    with pytest.raises(Stopped), stoppable(), closing(done):
        signal.raise_signal(signal.SIGTERM)
    assert done == ["closed"]


def test_a_step_that_failed_says_so() -> None:
    def fail() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"), stoppable(), finishing():
        fail()


def test_who_else_listens_is_told_afterwards() -> None:
    """As Prefect, which has its own handler while a flow runs."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with finishing():
            signal.raise_signal(signal.SIGTERM)
            assert not told
        assert told == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_nested_stop_goes_through() -> None:
    with pytest.raises(Stopped), stoppable(), stoppable():
        raise TerminationSignal(signal.SIGTERM)


def test_other_threads_have_no_signals() -> None:
    done: list[str] = []

    def beside() -> None:
        with stoppable(), finishing():
            done.append("step")

    thread = Thread(target=beside)
    thread.start()
    thread.join()
    assert done == ["step"]
