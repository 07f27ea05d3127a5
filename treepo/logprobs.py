"""Logprobs of the sampled tokens under a model, on packed trees.

Knows models and packing; knows nothing of advantages or of the objective.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from treepo.forest import Forest
from treepo.packing import PackedTrees, micro_batches, pack


def target_logprobs(
    model: PreTrainedModel, packed: PackedTrees, temperature: float
) -> tuple[Tensor, Tensor]:
    """Logprob of each target [M], and entropy of the distribution it was drawn from [M], in nats.

    Logits are computed once for each token that predicts something.
    """
    logits: Tensor = model(
        input_ids=packed.tokens[None],
        position_ids=packed.positions[None],
        logits_to_keep=packed.predictors,
        use_cache=False,
        tree=packed.context(model.config, next(model.parameters()).dtype),
    ).logits[0]
    scaled = logits if temperature == 1 else logits / temperature
    logprobs = torch.log_softmax(scaled, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs[packed.predictor, packed.target], entropy[packed.predictor]


@torch.no_grad()
def old_logprobs(
    model: PreTrainedModel,
    forest: Forest,
    trees: Sequence[int],
    temperature: float,
    budget: int,
) -> np.ndarray:
    """Logprobs of the sampled tokens of these trees under `model`, in the packing of the update.

    Returns float32 [tokens], aligned with `forest.tokens`; 0 for prompts and for other trees.
    budget: tokens of one forward pass; a larger tree is a forward pass of its own.
    """
    result = np.zeros(len(forest.tokens), dtype=np.float32)
    for part in micro_batches(forest, trees, budget):
        packed = pack(forest, part).to(model.device)
        logprobs, _ = target_logprobs(model, packed, temperature)
        result[packed.target_token] = logprobs.float().cpu().numpy()
    return result
