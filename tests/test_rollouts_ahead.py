"""Rollouts beside an update: one at a time, and none once the run is over."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast
from uuid import uuid4

import pytest
from prefect.futures import PrefectConcurrentFuture

from flows import ablation
from flows import experiment as flows_experiment
from flows.experiment import Pipeline, experiment
from tasks.steps import Made
from treepo.ablation.plan import Run
from treepo.errors import WorkError


def test_a_variant_of_an_ablation_has_one_thread_for_them_as_an_experiment_has() -> None:
    run = cast(Run, type("Named", (), {"name": "base.1"}))
    assert ablation._sub_flow(run).task_runner == experiment.task_runner


def test_what_has_begun_ends_before_its_resources_do_and_the_rest_is_called_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, release = threading.Event(), threading.Event()
    ended: list[int] = []

    def sample(iteration: int) -> None:
        begun.set()
        release.wait()
        ended.append(iteration)

    def waited(futures: list[Future[Made]]) -> None:
        release.set()
        wait(futures)

    wait = flows_experiment.wait
    monkeypatch.setattr(flows_experiment, "wait", waited)
    nothing = cast(Any, None)
    pipeline = Pipeline(nothing, nothing, nothing, nothing, nothing, ())

    def fail() -> None:
        begun.wait()
        raise WorkError("the update failed")

    monkeypatch.setattr(pipeline, "_prepare", fail)
    with ThreadPoolExecutor(1) as runner:
        for iteration in (2, 3):
            future = cast("Future[Made]", runner.submit(sample, iteration))
            pipeline.ahead[iteration] = PrefectConcurrentFuture(uuid4(), future)
        with pytest.raises(WorkError, match="the update failed"):
            pipeline.run()
        assert ended == [2]
    assert ended == [2]
