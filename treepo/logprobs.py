"""Logprobs of the sampled tokens under a model, on packed trees.

Logits are computed for predictors only, a chunk of them at a time, and again in the backward
pass, so that the vocabulary does not set the memory. Knows models and packing; knows nothing of
advantages or of the objective. Axes: U predictors, M targets, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from treepo.cutting import cut
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.packing import PackedTrees, micro_batches, pack

# Predictors whose logits are held at a time: 50 MB for a vocabulary of 49k, 150 MB for 150k.
CHUNK = 256
# What some models do to their logits after the head, and what is not done here.
_SCALED = ("logit_scale", "logits_scaling", "final_logit_softcapping", "lm_head_multiplier")


def target_logprobs(
    model: transformers.PreTrainedModel, packed: PackedTrees, temperature: float, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Logprob of each target [M], and entropy of the distribution it was drawn from [M], in nats.

    Both carry gradients, in float32 at least. chunk: predictors whose logits are held at a time.
    Raises UserError where the model changes its logits after the head.
    """
    head = _head(model)
    hidden: Tensor = model.base_model(
        input_ids=packed.tokens[None],
        position_ids=packed.positions[None],
        use_cache=False,
        tree=packed.context(model.config, _product_type(head.weight)),
    ).last_hidden_state[0, packed.predictors]
    logprobs, entropy = chunked_logprobs(
        hidden / temperature, head.weight, packed.predictor, packed.target, chunk
    )
    return logprobs, entropy[packed.predictor]


class TargetLogprobs(nn.Module):
    """`target_logprobs` as a module: what wrappers that exchange gradients wrap."""

    def __init__(self, policy: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, packed: PackedTrees, temperature: float, chunk: int) -> tuple[Tensor, Tensor]:
        """See `target_logprobs`."""
        return target_logprobs(self.policy, packed, temperature, chunk)


def chunked_logprobs(
    hidden: Tensor, weight: Tensor, predictor: Tensor, target: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Logprob of each target [M] and entropy of each predictor [U] for logits hidden @ weight.T.

    hidden: [U, D]; weight: [V, D]; predictor, target: int64 [M]. Under autocast the products are
    of its type; the rest is in float32 at least.
    """
    dtype = _product_type(weight)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        return _ChunkedLogprobs.apply(hidden, weight, predictor, target, chunk)


@torch.no_grad()
def forest_logprobs(
    model: transformers.PreTrainedModel,
    forest: Forest,
    trees: Sequence[int],
    temperature: float,
    budget: int,
    chunk: int = CHUNK,
) -> np.ndarray:
    """Logprobs of the sampled tokens of these trees under `model`, in the packing of the update.

    Returns float32 [tokens], aligned with `forest.tokens`; 0 for prompts and for other trees.
    budget: tokens of one forward pass. Raises UserError where a trajectory has more.
    """
    result = np.zeros(len(forest.tokens), dtype=np.float32)
    pieces = cut(forest, budget, trees)
    for part in micro_batches(pieces.forest, pieces.parts(trees), budget):
        packed = pack(pieces.forest, part).to(model.device)
        logprobs, _ = target_logprobs(model, packed, temperature, chunk)
        result[pieces.token[packed.target_token]] = logprobs.float().cpu().numpy()
    return result


def _product_type(weight: Tensor) -> torch.dtype:
    """The type of matrix products with this weight: autocast's where it is on."""
    device = weight.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return weight.dtype


def _head(model: transformers.PreTrainedModel) -> nn.Linear:
    changed = [name for name in _SCALED if getattr(model.config, name, None) not in (None, 1)]
    head = model.get_output_embeddings()
    if changed or not isinstance(head, nn.Linear) or "bias" in dict(head.named_parameters()):
        reason = changed[0] if changed else "a head that is not one matrix"
        raise UserError(f"model.source: the model has {reason}, which is not supported")
    return head


class _ChunkedLogprobs(torch.autograd.Function):
    """(hidden [U, D], weight [V, D], predictor [M], target [M]) -> logprobs [M], entropy [U].

    With z = hidden @ weight.T and p = softmax(z): d logprob / dz = onehot - p, and
    d entropy / dz = -p * (log p + entropy).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, predictor: Tensor, target: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        """One pass over the chunks; keeps log normaliser and entropy of each predictor."""
        exact = torch.promote_types(hidden.dtype, torch.float32)
        normaliser, entropy = hidden.new_empty(2, len(hidden), dtype=exact)
        logprobs = hidden.new_empty(len(target), dtype=exact)
        for span, chosen in _chunks(predictor, len(hidden), chunk):
            logits = (hidden[span] @ weight.T).to(exact)
            peak = logits.amax(-1, keepdim=True)
            logits -= peak
            picked = logits[predictor[chosen] - span.start, target[chosen]]
            odds = logits.exp()
            total = odds.sum(-1)
            log_total = total.log()
            logprobs[chosen] = picked - log_total[predictor[chosen] - span.start]
            entropy[span] = log_total - torch.linalg.vecdot(odds, logits) / total
            normaliser[span] = log_total + peak[:, 0]
        ctx.save_for_backward(hidden, weight, predictor, target, normaliser, entropy)
        ctx.chunk = chunk
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """The logits again, chunk by chunk, and the gradients through them."""
        hidden, weight, predictor, target, normaliser, entropy = ctx.saved_tensors
        of_logprobs, of_entropy = grads
        if of_logprobs is None:
            of_logprobs = normaliser.new_zeros(len(target))
        pull = torch.zeros_like(normaliser).index_add_(0, predictor, of_logprobs)
        grad_hidden = torch.empty_like(hidden)
        # A frozen head wants no gradient, which is a third of the work.
        trained = ctx.needs_input_grad[1]
        grad_weight = torch.zeros_like(weight, dtype=normaliser.dtype) if trained else None
        for span, chosen in _chunks(predictor, len(hidden), ctx.chunk):
            logits = (hidden[span] @ weight.T).to(normaliser.dtype)
            logits -= normaliser[span, None]
            if of_entropy is None:
                grad = logits.exp_().mul_(-pull[span, None])
            else:
                slope = of_entropy[span, None]
                shift = slope * entropy[span, None] + pull[span, None]
                grad = logits.exp().mul_(logits.mul_(-slope).sub_(shift))
            place = (predictor[chosen] - span.start, target[chosen])
            grad.index_put_(place, of_logprobs[chosen], accumulate=True)
            grad = grad.to(hidden.dtype)
            grad_hidden[span] = grad @ weight
            if grad_weight is None:
                continue
            if grad.dtype == grad_weight.dtype:
                grad_weight.addmm_(grad.T, hidden[span])
            else:
                grad_weight += grad.T @ hidden[span]
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None


def _chunks(predictor: Tensor, count: int, size: int) -> Iterator[tuple[slice, Tensor]]:
    """Spans of predictors, with the targets of each."""
    order = torch.argsort(predictor, stable=True)
    starts = torch.arange(0, count + size, size, device=predictor.device)
    bounds = torch.searchsorted(predictor[order], starts).tolist()
    for index in range(0, count, size):
        at = index // size
        yield slice(index, min(index + size, count)), order[bounds[at] : bounds[at + 1]]
