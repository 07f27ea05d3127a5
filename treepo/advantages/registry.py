r"""How an advantage estimator is entered by name, whatever shape comes natural to it.

An estimator is a pure function of (forest structure, rewards). `rewards`: float64
[trajectories], in the order of `Forest.leaves`. Registered, it returns one value an entry of
`Forest.entries`, that is for each segment of each trajectory.

The examples in the docstrings are worked on one small tree:

    root --- a            three trajectories, which end in a, b and c;
         \-- m --- b      b and c share the segment m
              \-- c
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import numpy as np

from treepo.forest import Forest
from treepo.params import AdvantageParams
from treepo.registry import Registry

Array = np.ndarray
Plain = Callable[[Forest, Array], Array]
Estimator = Callable[[Forest, Array, AdvantageParams], Array]

ESTIMATORS: Registry[Estimator] = Registry("advantage.estimator")


def of_trajectories(name: str) -> Callable[[Plain], Plain]:
    """Register a function that gives one value a trajectory; all its segments get that value."""
    return _register(name, lambda forest: forest.entries[0])


def of_nodes(name: str) -> Callable[[Plain], Plain]:
    """Register a function that gives one value a node, the same for all trajectories through it."""
    return _register(name, lambda forest: forest.entries[1])


def _register(name: str, spread: Callable[[Forest], Array]) -> Callable[[Plain], Plain]:
    def add(function: Plain) -> Plain:
        @wraps(function)
        def estimate(forest: Forest, rewards: Array, _: AdvantageParams) -> Array:
            return function(forest, rewards)[spread(forest)]

        ESTIMATORS.register(name)(estimate)
        return function

    return add
