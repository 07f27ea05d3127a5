"""Attention in which a token sees its ancestors only: one mechanism for engine and trainer.

The dense layers of the model run over a flat row of N tokens, whatever tree each belongs to;
only attention needs the trees apart. Transformers calls it under the name `implementation()`;
it hands each layer's projections to the `TreeContext` that came with the forward call.

Axes, here and in the engine: T trees, Q query tokens a tree (padded), S key slots a tree,
H query heads, K key heads, G = H / K heads a group, E head width, N flat tokens.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from treepo.errors import UserError

# What some architectures ask of their attention and what this one does not do.
UNSUPPORTED = ("softcap", "s_aux")


class TreeContext(Protocol):
    """Where the keys of a forward call lie and which of them each query sees."""

    @property
    def longest(self) -> int:
        """No path has more tokens than this."""
        ...

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention output [N, H, E] for query [N, H, E], key and value [N, K, E]."""
        ...


def _tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The signature that transformers calls: tensors are [1, heads, N, E] here."""
    context: TreeContext = kwargs["tree"]
    # A window at least as wide as any path is long cuts nothing off.
    window = kwargs.pop("sliding_window", None)
    asked = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if window is not None and window < context.longest:
        asked.append("sliding_window")
    if asked:
        raise UserError(f"model.source: its attention uses {asked[0]}, which is not supported")
    flat = [part[0].transpose(0, 1) for part in (query, key, value)]
    layer = module.layer_idx
    assert isinstance(layer, int)
    return context.attend(layer, flat[0], flat[1], flat[2], scaling)[None], None


@cache
def implementation() -> str:
    """The name by which transformers finds this attention, from the first call on.

    Not registered at import: that would load the modelling code, which takes seconds.
    """
    transformers.AttentionInterface.register("tree", _tree_attention)
    return "tree"


def grouped_mask(visible: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """Additive mask [T, 1, G * Q, S] from booleans [T, Q, S]; rows repeat for each query group."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    mask.masked_fill_(~visible, float("-inf"))
    return mask.repeat(1, groups, 1)[:, None]


def grouped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float
) -> Tensor:
    """Attention [T, Q, H, E] of query [T, Q, H, E] over key, value [T, S, K, E].

    Grouped queries become further rows of their key head, so that no key is copied.
    `mask` is additive, [T, 1, G * Q, S]; a row that sees nothing yields undefined numbers.
    """
    trees, queries, heads, width = query.shape
    key_heads = key.shape[2]
    groups = heads // key_heads
    rows = query.view(trees, queries, key_heads, groups, width).permute(0, 2, 3, 1, 4)
    rows = rows.reshape(trees, key_heads, groups * queries, width)
    out = scaled_dot_product_attention(
        rows, key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask, scale=scale
    )
    out = out.view(trees, key_heads, groups, queries, width).permute(0, 3, 1, 2, 4)
    return out.reshape(trees, queries, heads, width)
