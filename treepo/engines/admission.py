"""When the next tree may enter the batch: memory, rows, and how many columns fill a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers

from treepo.engines.kv import slot_bytes
from treepo.errors import UserError
from treepo.params import EngineParams, SamplingParams
from treepo.sampling import Request

GIB = 2**30


class Admission:
    """Decides before a tree grows, so that no tree has to leave half grown."""

    def __init__(
        self,
        config: transformers.PretrainedConfig,
        dtype: torch.dtype,
        sampling: SamplingParams,
        params: EngineParams,
    ) -> None:
        self._sampling, self._params = sampling, params
        self._slot = slot_bytes(config, dtype)
        self._context = int(config.max_position_embeddings)
        self._largest = 0

    def open(self, trees: int, columns: int) -> bool:
        """Whether one more tree may start beside so many trees with so many columns."""
        params = self._params
        if params.rows is not None and trees >= params.rows:
            return False
        if not trees:
            return True
        room = params.memory * GIB
        return columns < params.columns and (trees + 1) * self._largest <= room

    def check(self, requests: Sequence[Request]) -> None:
        """Raise UserError where a tree that starts with these requests can never fit."""
        prompt = max(request.node.end for request in requests)
        longest = max(request.node.end + request.max_tokens for request in requests)
        if longest > self._context:
            raise UserError(
                f"engine: a prompt of {prompt} tokens with a segment of {longest - prompt} exceeds "
                f"the model's {self._context} positions; lower data.max_prompt_tokens or sampling"
            )
        # A path's tokens may all be its own; padding is what the pool's growth adds.
        size = (prompt + self._sampling.width * self._sampling.token_limit) * self._slot
        self._largest = max(self._largest, size)
        if size > self._params.memory * GIB:
            raise UserError(
                f"engine.memory: a tree of {self._sampling.width} paths of {prompt} + "
                f"{self._sampling.token_limit} tokens may need {size / GIB:.2f} GiB, more than "
                f"{self._params.memory}; raise it, or lower sampling.width"
            )
