"""Baselines that see which trajectories share a prompt or a tree, and nothing of the nodes.

All give one value a trajectory. As published, `grpo`, `dr_grpo` and `rloo` go with
`advantage.normalization: none`, `reinforce_pp_baseline` with `tokens`.
"""

from __future__ import annotations

import numpy as np

from treepo.advantages.groups import means_of, standardized
from treepo.advantages.registry import of_trajectories
from treepo.forest import Forest

Array = np.ndarray


@of_trajectories("grpo")
def grpo(forest: Forest, rewards: Array) -> Array:
    """GRPO: reward standardised within its tree (population deviation; 0 where that is 0).

    Example: rewards 0, 1, 0 have mean 1/3 and deviation sqrt(2)/3:
    A = -1/sqrt(2), sqrt(2), -1/sqrt(2).
    """
    return standardized(rewards, forest.tree[forest.leaves], forest.trees)


@of_trajectories("dr_grpo")
def dr_grpo(forest: Forest, rewards: Array) -> Array:
    """Dr. GRPO: reward less the mean of its tree, not divided by the deviation.

    Example: rewards 0, 1, 0 have mean 1/3: A = -1/3, 2/3, -1/3.
    """
    tree = forest.tree[forest.leaves]
    return rewards - means_of(rewards, tree, forest.trees)[tree]


@of_trajectories("rloo")
def rloo(forest: Forest, rewards: Array) -> Array:
    """RLOO: reward less the mean of the tree's other trajectories; 0 where there is no other.

    Example: rewards 0, 1, 0: A = 0 - 1/2, 1 - 0, 0 - 1/2.
    """
    count = np.bincount(forest.tree[forest.leaves], minlength=forest.trees)
    others = np.maximum(count - 1, 1)
    return dr_grpo(forest, rewards) * (count / others)[forest.tree[forest.leaves]]


@of_trajectories("reinforce_pp_baseline")
def reinforce_pp_baseline(forest: Forest, rewards: Array) -> Array:
    """REINFORCE++ with baseline: reward less the mean of its tree, for whitening over the batch.

    Example: rewards 0, 1, 0 have mean 1/3: A = -1/3, 2/3, -1/3 before the normalisation.
    """
    return dr_grpo(forest, rewards)


@of_trajectories("tree_grpo")
def tree_grpo(forest: Forest, rewards: Array) -> Array:
    """Tree-GRPO: standardised within the tree plus standardised over all trees of the prompt.

    Example: rewards 0, 1, 0, the prompt's only tree, so twice what `grpo` gives:
    A = -sqrt(2), 2 sqrt(2), -sqrt(2). A second tree of the prompt with rewards 1, 1, 1 changes
    the second part: mean 2/3 and deviation sqrt(2)/3 over both,
    A = -1/sqrt(2) - sqrt(2), sqrt(2) + 1/sqrt(2), -1/sqrt(2) - sqrt(2), and 1/sqrt(2) thrice.
    """
    prompts, prompt = np.unique(forest.prompt_id[forest.leaves].astype(str), return_inverse=True)
    return grpo(forest, rewards) + standardized(rewards, prompt, len(prompts))
