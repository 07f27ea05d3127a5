"""Logprobs of the sampled tokens under a model, on packed trees.

Knows models and packing; knows nothing of advantages or of the objective.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from treepo.packing import PackedTrees


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
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs[packed.predictor, packed.target], entropy[packed.predictor]
