"""Which trees may go on: slots for keys and values, rows, and how many columns fill a batch.

Memory is promised by age, as the banker's algorithm does: at any time the oldest tree could grow
to its largest, and once it is done the next oldest, and so on. So a tree may have to wait at a
boundary, but the batch never stands still, and no tree has to leave half grown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import transformers

from treepo.engines.kv import GIB, slot_bytes
from treepo.errors import UserError
from treepo.params import EngineParams, SamplingParams
from treepo.sampling import Request


class Admission:
    """slots: how many the memory has. slot: bytes of one."""

    def __init__(
        self,
        config: transformers.PretrainedConfig,
        dtype: torch.dtype,
        sampling: SamplingParams,
        params: EngineParams,
    ) -> None:
        self._sampling, self._params = sampling, params
        self.slot = slot_bytes(config, dtype)
        self.slots = int(params.memory * GIB) // self.slot
        self._context = int(config.max_position_embeddings)

    def open(self, trees: int, columns: int) -> bool:
        """Whether one more tree may come beside so many with so many columns."""
        room = self._params.rows is None or trees < self._params.rows
        return room and columns < self._params.columns

    def wide(self, columns: int, more: int) -> bool:
        """Whether a tree may add so many columns; one that has more than may be goes alone."""
        return not columns or columns + more <= self._params.columns

    def safe(self, held: Sequence[int], largest: Sequence[int]) -> bool:
        """Whether trees that hold so many slots, the oldest first, can all grow to their largest.

        One after the other: beside a tree that grows only younger ones still hold something.
        """
        younger = np.cumsum(held[::-1])[::-1] - held
        return bool((younger + largest <= self.slots).all())

    def largest(self, requests: Sequence[Request]) -> int:
        """Slots that a tree which starts with these may come to hold: no path shares any token.

        Raises UserError where it can never fit.
        """
        prompt = max(request.node.end for request in requests)
        limit = self._sampling.token_limit
        if prompt + limit > self._context:
            raise UserError(
                f"engine: a prompt of {prompt} tokens with a response of {limit} exceeds the "
                f"model's {self._context} positions; lower data.max_prompt_tokens or sampling"
            )
        slots = prompt + self._sampling.width * self._sampling.token_limit
        if slots > self.slots:
            raise UserError(
                f"engine.memory: a tree of {self._sampling.width} paths of {prompt} + "
                f"{self._sampling.token_limit} tokens may need {slots * self.slot / GIB:.2f} GiB, "
                f"more than {self._params.memory}; raise it, or lower sampling.width"
            )
        return slots
