"""Tiny policies, the logprobs that they give trajectory by trajectory, and batches made of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from treepo.advantages import Advantages
from treepo.batch import Batch
from treepo.forest import Forest
from treepo.models import initial_policy
from treepo.params import ModelParams
from treepo.tree import Segment, Tree

Array = np.ndarray
SIZE = ModelParams(hidden_size=16, layers=2, heads=4, intermediate_size=24, max_positions=64)
LIMIT = 40


def tiny(kv_heads: int = 2, seed: int = 0) -> PreTrainedModel:
    """A random Llama with weights large enough for logits that differ."""
    model = initial_policy(SIZE.model_copy(update={"kv_heads": kv_heads}), seed=seed).model
    for parameter in model.parameters():
        parameter.data *= 10 if parameter.dim() > 1 else 1
    return model


class ExactNorm(nn.Module):
    """RMSNorm in the type of its input; transformers' own computes in float32 whatever the type."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.epsilon = norm.weight, norm.variance_epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        return (
            self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.epsilon)
        )


def exact(model: PreTrainedModel) -> PreTrainedModel:
    """The model in float64, its norms too."""
    model = model.double()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "LlamaRMSNorm":
                setattr(module, name, ExactNorm(child))
    return model


def plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in PyTorch's own attention, which knows no trees and keeps the type."""
    other = copy.deepcopy(model)
    other.set_attn_implementation("sdpa")
    return other


def flat_distributions(model: PreTrainedModel, forest: Forest, temperature: float) -> list[Tensor]:
    """Log-probabilities of all tokens where each trajectory's were sampled, [tokens, vocabulary];
    each trajectory alone in a dense row."""
    result: list[Tensor] = []
    for leaf, response in zip(forest.leaves, forest.responses(), strict=True):
        prompt = forest.node_tokens(int(forest.tree_start[forest.tree[leaf]]))
        tokens = torch.tensor([*prompt.tolist(), *response.tolist()])
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        result.append(torch.log_softmax(logits / temperature, dim=-1))
    return result


def chosen(distributions: list[Tensor], forest: Forest) -> list[Tensor]:
    """Of the sampled tokens, [tokens] a trajectory."""
    return [
        of_all.gather(1, torch.from_numpy(response.astype(np.int64))[:, None])[:, 0]
        for of_all, response in zip(distributions, forest.responses(), strict=True)
    ]


def flat_logprobs(model: PreTrainedModel, forest: Forest, temperature: float) -> list[Tensor]:
    """Logprobs of each trajectory's sampled tokens, each trajectory alone in a dense row."""
    return chosen(flat_distributions(model, forest, temperature), forest)


def places(forest: Forest, rows: Any) -> Array:
    """Indices into the forest's tokens of the tokens of these rows, in order."""
    return np.concatenate([np.arange(forest.offsets[r], forest.offsets[r + 1]) for r in rows])


def along(forest: Forest, values: Array) -> list[Array]:
    """Values of the forest's tokens, trajectory by trajectory."""
    return [values[places(forest, path)] for path in forest.paths]


def gathered(forest: Forest, values: list[Tensor]) -> Array:
    """Values of each trajectory's tokens, as float64 [tokens of the forest]; prompts have 0."""
    result = np.zeros(len(forest.tokens))
    for path, of_path in zip(forest.paths, values, strict=True):
        result[places(forest, path)] = of_path.detach().numpy()
    return result


def noisy(forest: Forest, values: Array, noise: float, seed: int) -> Array:
    """Values of the forest's tokens [tokens], moved by normal noise where they were sampled."""
    moved = np.random.default_rng(seed).normal(0, noise, len(values))
    return values + moved * np.repeat(forest.parent >= 0, forest.lengths)


def behaved(forest: Forest, logprobs: list[Tensor], noise: float, seed: int = 0) -> Forest:
    """The forest with the model's own logprobs, moved by normal noise [nats]."""
    values = noisy(forest, gathered(forest, logprobs), noise, seed)
    return replace(forest, logprobs=values.astype(np.float32))


def with_values(forest: Forest, value: Array) -> Advantages:
    """One advantage a trajectory, for all its segments."""
    trajectory, row = forest.entries
    return Advantages(trajectory, row, value[trajectory])


def forking_forest(trees: int = 3) -> Forest:
    """Two levels of forks, four leaves a tree; each tree one token longer than the one before."""
    grown: list[Tree] = []
    for index in range(trees):
        tree = Tree(f"p{index}", [1 + index, 2, 3, *[4] * index], seed=0)
        for branch in range(2):
            inner = tree.grow(tree.root, Segment([4 + branch, 6 + index], [-1.0] * 2), branch)
            for leaf in range(2):
                segment = Segment([8 + leaf, *[5] * (1 + leaf)], [-1.0] * (2 + leaf))
                tree.grow(inner, segment, leaf).finish = "eos"
        grown.append(tree)
    return Forest.from_trees(grown)


def sampled(model: PreTrainedModel, temperature: float = 1.0) -> Batch:
    """A batch whose logprobs the model itself gives, densely; half of the leaves are good."""
    forest = forking_forest()
    forest = behaved(forest, flat_logprobs(plain(model), forest, temperature), noise=0)
    value = np.tile([1.0, -1.0, 0.5, -0.5], 3)
    return Batch(forest, with_values(forest, value), range(3), temperature, LIMIT)


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    """A copy of every parameter's gradient; zeros where there is none."""
    return {
        name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
        for name, value in model.named_parameters()
    }
