"""What one update learns from, and how it is laid over the packed trees of a micro-batch.

Knows the forest, its advantages and logprobs of its tokens; knows no model and no optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from treepo.advantages import Advantages
from treepo.cutting import Cut
from treepo.forest import Forest
from treepo.objective import Entries, Tokens, Weighting
from treepo.packing import PackedTrees

Array = np.ndarray


@dataclass(frozen=True)
class Batch:
    """An iteration's trees and advantages.

    trees: those to learn from; temperature: that of the behaviour policy; token_limit: the longest
    response allowed. Aligned with `forest.tokens`, in nats: old, the trainer's own logprobs of
    the behaviour policy, None where the engine's are taken for them; reference, those of the
    reference policy, None without one.
    """

    forest: Forest
    advantages: Advantages
    trees: Sequence[int]
    temperature: float
    token_limit: int
    old: Array | None = None
    reference: Array | None = None

    def arrays(self) -> tuple[Array, ...]:
        """Whatever decides what is learned: the ranks of an update must hold the same."""
        forest, a = self.forest, self.advantages
        trees = np.array(self.trees)
        return forest.tree, forest.parent, forest.tokens, forest.logprobs, a.value, trees

    def cut(self, pieces: Cut) -> Batch:
        """The same trajectories with the same numbers, on the trees of `pieces`."""
        trajectory, row = pieces.forest.entries

        def moved(values: Array | None) -> Array | None:
            return None if values is None else values[pieces.token]

        return replace(
            self,
            forest=pieces.forest,
            advantages=Advantages(trajectory, row, self.advantages.value),
            trees=pieces.parts(self.trees),
            old=moved(self.old),
            reference=moved(self.reference),
        )

    def of_trees(self, trees: Sequence[int]) -> Array:
        """Which trajectories belong to these trees: bool [trajectories]."""
        return np.isin(self.forest.tree[self.forest.leaves], trees)

    def idle(self, trees: Sequence[int]) -> bool:
        """Whether all advantages of these trees are zero."""
        return not self.advantages.value[self.of_trees(trees)[self.advantages.trajectory]].any()

    def shares(self, trees: Sequence[int], weighting: Weighting) -> Array:
        """Weight of a token of each trajectory in a minibatch of these trees, else 0."""
        trajectory, row = self.forest.entries
        count = len(self.forest.leaves)
        lengths = np.bincount(trajectory, self.forest.sampled_lengths[row], count)
        chosen = self.of_trees(trees)
        shares = np.zeros(count)
        shares[chosen] = weighting(lengths[chosen], self.token_limit)
        return shares

    def entries(self, trees: Sequence[int], shares: Array) -> Entries:
        """The trajectories of a micro-batch of these trees, as the objective reads them."""
        chosen = self.of_trees(trees)[self.advantages.trajectory]
        trajectory = self.advantages.trajectory[chosen]
        return Entries(
            trajectory=np.unique(trajectory, return_inverse=True)[1],
            node=self.advantages.row[chosen],
            share=shares[trajectory],
            advantage=self.advantages.value[chosen],
            nodes=len(self.forest),
        )

    def tokens(
        self, packed: PackedTrees, new: Tensor, entropy: Tensor, cap: float | None
    ) -> Tokens:
        """The targets of a micro-batch; `new` and `entropy` are the model's, [targets].

        cap: bound on the weight trainer / engine; None: every weight is 1.
        """

        def at(values: Array) -> Tensor:
            return torch.from_numpy(values[packed.target_token]).to(new)

        engine = at(self.forest.logprobs)
        old = engine if self.old is None else at(self.old)
        correction = torch.ones_like(old) if cap is None else (old - engine).exp().clamp(max=cap)
        return Tokens(
            new=new,
            old=old,
            entropy=entropy,
            node=torch.from_numpy(packed.target_row).to(new.device),
            correction=correction,
            reference=None if self.reference is None else at(self.reference),
        )
