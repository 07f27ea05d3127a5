"""The learning rate over an experiment: linear warm-up, then a schedule.

A schedule takes the progress after the warm-up, 0 to 1, to the share of the way from the final
learning rate up to the peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from treepo.params import UpdateParams
from treepo.registry import Registry

Schedule = Callable[[float], float]
SCHEDULES: Registry[Schedule] = Registry("update.schedule")


@SCHEDULES.register("constant")
def constant(_: float) -> float:
    """The peak throughout."""
    return 1.0


@SCHEDULES.register("linear", needs="schedule_steps")
def linear(progress: float) -> float:
    """A straight line down to the final learning rate at `update.schedule_steps`."""
    return 1.0 - progress


@SCHEDULES.register("cosine", needs="schedule_steps")
def cosine(progress: float) -> float:
    """Half a cosine down to the final learning rate at `update.schedule_steps`."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def learning_rate(step: int, params: UpdateParams) -> float:
    """The learning rate of the optimizer step that follows `step` steps."""
    peak, final, warm_up = params.learning_rate, params.final_learning_rate, params.warm_up_steps
    if step < warm_up:
        return peak * (step + 1) / warm_up
    decay = (params.schedule_steps or math.inf) - warm_up
    progress = min(1.0, (step - warm_up) / decay) if decay > 0 else 1.0
    return final + (peak - final) * SCHEDULES.get(params.schedule)(progress)
