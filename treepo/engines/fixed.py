"""Matrix products whose shape does not depend on the batch (`engine.deterministic`).

A BLAS picks its kernel, its blocking and its split over threads by the number of rows, and another
choice adds the same products in another order. So each product is cut into chunks of `ROWS` rows,
the last one padded. That a row comes out the same wherever it stands in its chunk cannot be forced;
`check_rows_alike` looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode

from treepo.errors import WorkError

ROWS = 64


class FixedRows(TorchFunctionMode):
    """While active, `linear` and `addmm` (GPT-2's) run on chunks of `ROWS` rows."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """What torch calls instead of `func`."""
        kwargs = kwargs or {}
        if func is linear:
            return _by_chunks(lambda rows: func(rows, *args[1:], **kwargs), args[0])
        if func is torch.addmm:
            return _by_chunks(lambda rows: func(args[0], rows, *args[2:], **kwargs), args[1])
        return func(*args, **kwargs)


def padded(count: int) -> int:
    """`count` rows filled up to whole chunks."""
    return -(-count // ROWS) * ROWS


def _by_chunks(product: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`product` of [..., K], chunk by chunk over the flattened rows."""
    flat = rows.flatten(0, -2)
    filled = pad(flat, (0, 0, 0, padded(len(flat)) - len(flat)))
    out = torch.cat([product(chunk) for chunk in filled.split(ROWS)])
    return out[: len(flat)].unflatten(0, rows.shape[:-1])


def check_rows_alike(model: nn.Module) -> None:
    """Raise WorkError where a row's product depends on its place in the chunk on this machine."""
    shapes = {p.shape: p for p in model.parameters() if p.ndim == 2}
    for weight in shapes.values():
        generator = torch.Generator().manual_seed(0)
        row = torch.randn(1, weight.shape[1], generator=generator).to(weight)
        out = linear(row.repeat(ROWS, 1), weight)
        if not torch.equal(out, out[:1].expand_as(out)):
            raise WorkError(
                "engine.deterministic: this machine's matrix products depend on the row's place "
                f"(weights of shape {tuple(weight.shape)}); try another number of engine.threads"
            )
