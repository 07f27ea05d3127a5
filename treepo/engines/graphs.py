"""Decode steps in fixed shapes, which CUDA replays as graphs (`engine.graphs`).

A decode step is some hundred kernels of a few microseconds: starting them one by one takes longer
than they run. A graph starts all at once, but always with the shapes and the memory that it was
captured with. So columns, trees, paths and slots are rounded up, the last column stands in for
those that are missing, and what the host decides comes through a buffer that stays. On a CPU the
same steps run without a graph. Axes as in `treepo.engines.decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import transformers
from torch import Tensor

from treepo.engines.columns import Columns
from treepo.engines.decode import DecodeContext, TreeRows
from treepo.engines.kv import KVPool
from treepo.engines.masks import TreeMasks, rounded
from treepo.engines.plan import Plan
from treepo.errors import WorkError

Array = np.ndarray
CAPTURED_AT = 3  # a capture costs about as much as a step: only shapes that come again are worth it


@dataclass(frozen=True)
class Shape:
    """What a graph is captured for: C, trees, P and slots a tree, each rounded up."""

    columns: int
    trees: int
    paths: int
    slots: int


@dataclass
class Step:
    """The steps of one shape. inputs: int64, on the device; run: does one; out: its logits."""

    inputs: Tensor
    run: Callable[[], Tensor]
    count: int = 0


class FixedSteps:
    """The pure decode steps of one batch: none that also fills. columns: it has hardly more."""

    def __init__(
        self, model: transformers.PreTrainedModel, pool: KVPool, masks: TreeMasks, columns: int
    ) -> None:
        self._model, self._pool, self._masks = model, pool, masks
        self._columns = columns
        self._renew()

    def logits(self, columns: Columns, standing: Mapping[int, Plan]) -> Tensor:
        """Logits [C, V] after each column's pending token; overwritten by the next step.

        standing: the latest plan of each row.
        """
        live = columns.live
        self._masks.show(live, standing)
        if self._masks.moves != self._moves:  # graphs would read where the masks were
            self._renew()
        numbers, tree = np.unique(live["row"], return_inverse=True)
        plans = [standing[number] for number in numbers.tolist()]
        shape = Shape(
            columns=rounded(len(live)),
            trees=rounded(len(numbers)),
            paths=rounded(max(len(plan.places) for plan in plans)),
            slots=rounded(max(len(plan.slots) for plan in plans)),
        )
        table = np.stack([live["token"], live["position"], columns.pending(), tree, live["path"]])
        inputs = np.concatenate(
            [_filled(table, shape.columns).ravel(), _filled(numbers, shape.trees)]
        )
        return self._run(shape, torch.from_numpy(inputs))[: len(live)]

    def _renew(self) -> None:
        """Without graphs, and with none of their memory: a pool ends with its last graph."""
        self._steps: dict[Shape, Step] = {}
        self._moves = self._masks.moves
        self._capture = capture_on(self._pool.layers[0].device, self._columns)

    def _run(self, shape: Shape, inputs: Tensor) -> Tensor:
        step = self._steps.get(shape)
        if step is None:
            own = torch.empty_like(inputs, device=self._pool.layers[0].device)
            run = partial(_forward, self._model, self._pool, self._masks, shape, own)
            step = self._steps[shape] = Step(own, run)
        step.inputs.copy_(inputs)
        step.count += 1
        if step.count == CAPTURED_AT:
            step.run = self._capture(step.run)
        return step.run()


def _forward(
    model: transformers.PreTrainedModel,
    pool: KVPool,
    masks: TreeMasks,
    shape: Shape,
    inputs: Tensor,
) -> Tensor:
    """One step on what is in `inputs`; all that it does, it does on the device."""
    table, numbers = inputs[: -shape.trees], inputs[-shape.trees :]
    tokens, positions, write, tree, path = table.view(5, shape.columns)
    slots, mask = masks.trees(numbers, shape.paths, shape.slots)
    rows = TreeRows(slice(0, shape.columns), tree, path, slots, mask)
    # Every path was fed at its boundary, where its length was looked at.
    context = DecodeContext(pool, write, [rows], longest=0)
    return model(
        input_ids=tokens[None], position_ids=positions[None], use_cache=False, tree=context
    ).logits[0]


def capture_on(
    device: torch.device, columns: int
) -> Callable[[Callable[[], Tensor]], Callable[[], Tensor]]:
    """How a step becomes one that is replayed; the graphs made with it share their memory.

    columns: for as many there is room for logits; a step that has more gets room of its own.
    """
    if device.type != "cuda":
        return lambda step: step
    memory = torch.cuda.graph_pool_handle()
    held: list[Tensor] = []

    def captured(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        logits = step()
        # Not in the memory that the graphs share, of which the next one takes what it finds free.
        if not held:
            held.append(logits.new_empty(rounded(columns), logits.shape[1]))
        fits = len(logits) <= len(held[0])
        out = held[0][: len(logits)] if fits else torch.empty_like(logits)
        graph = torch.cuda.CUDAGraph()
        try:
            # An update may go on in another thread of this process (`rollout.staleness`).
            with torch.cuda.graph(graph, pool=memory, capture_error_mode="thread_local"):
                out.copy_(step())
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise WorkError(
                f"engine.graphs: a step of this model cannot be captured; set it to false "
                f"({reason:.200})"
            ) from error

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay

    return captured


def _filled(values: Array, count: int) -> Array:
    """The last axis filled up to `count` entries with its last one."""
    missing = count - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)], mode="edge")
