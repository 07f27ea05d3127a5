"""Several processes, one update: every rank holds the whole batch and trains a share of its trees.

Weights of the loss are those of the whole minibatch, so the sum over ranks is exact, however the
trees are shared. Knows Accelerate's processes and forests; knows no model and no objective.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from treepo.errors import WorkError
from treepo.forest import Forest
from treepo.packing import micro_batches, tree_tokens
from treepo.sharding import is_sharded

Array = np.ndarray
T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """A micro-batch of one rank. counted: False where it only keeps step with other ranks."""

    trees: list[int]
    counted: bool
    last: bool


def share_out(sizes: Array, trees: Sequence[int], ranks: int) -> list[list[int]]:
    """Split trees over ranks by tokens: the largest first, each to the rank with the fewest."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for tree in sorted(trees, key=lambda tree: (-sizes[tree], tree)):
        rank = load.index(min(load))
        shares[rank].append(tree)
        load[rank] += int(sizes[tree])
    return shares


class Ranks:
    """The processes of one update; a single process is a rank alone."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    @property
    def count(self) -> int:
        """Number of processes."""
        return self._accelerator.num_processes

    def micro_batches(self, forest: Forest, trees: Sequence[int], budget: int) -> Iterator[Share]:
        """The micro-batches of this rank, as many as of every other.

        Gradients are exchanged with the last, so all ranks need the same number; one that has
        fewer repeats a micro-batch that does not count.
        """
        shares = share_out(tree_tokens(forest), trees, self.count)
        parts = [list(micro_batches(forest, share, budget)) for share in shares]
        most = max(len(part) for part in parts)
        mine = parts[self._accelerator.process_index]
        spare = (mine or parts[0])[-1]
        for index in range(most):
            counted = index < len(mine)
            yield Share(mine[index] if counted else spare, counted, index == most - 1)

    def exchange(self, model: nn.Module, now: bool) -> AbstractContextManager[Any]:
        """Around a forward and backward pass: whether gradients are exchanged in it.

        Those of sharded weights always are: a rank that puts it off would hold all of them.
        """
        put_off = not now and not any(is_sharded(parameter) for parameter in model.parameters())
        return self._accelerator.no_sync(model) if put_off else nullcontext()

    def sum(self, values: Array) -> Array:
        """Sum of the ranks' arrays."""
        if self.count == 1:
            return values
        tensor = torch.from_numpy(values).to(self._accelerator.device)
        return self._accelerator.reduce(tensor, "sum").cpu().numpy()  # pyright: ignore

    def gather(self, value: T) -> list[T]:
        """Each rank's value, by rank."""
        return [value] if self.count == 1 else gather_object([value])

    def agree(self, arrays: Sequence[Any]) -> None:
        """Raise WorkError, on every rank, where the ranks do not hold the same numbers."""
        state = blake2b(digest_size=16)
        for array in arrays:
            state.update(np.ascontiguousarray(array).tobytes())
        digests = self.gather(state.hexdigest())
        differing = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if differing:
            raise WorkError(f"update: rank {differing[0]} was given other data than rank 0")
