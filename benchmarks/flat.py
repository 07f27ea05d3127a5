"""The flat update that packed trees are compared with: every trajectory a row of its own.

The same loss, optimizer and chunked logprobs as `treepo.trainer`; rows of like length share a
micro-batch, right-padded, through transformers' causal SDPA; logits at response positions only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from treepo.batch import Batch
from treepo.logprobs import chunked_logprobs
from treepo.objective import Units
from treepo.objective.surrogates import clipped
from treepo.params import UpdateParams


@dataclass(frozen=True)
class Trajectory:
    """One row. tokens: int64, prompt included; old, advantage: of its sampled tokens."""

    tokens: Tensor
    prompt: int
    old: Tensor
    advantage: Tensor


def trajectories(batch: Batch) -> list[Trajectory]:
    """The flat batch, in the order of the forest's leaves."""
    forest, advantages = batch.forest, batch.advantages
    bounds = np.searchsorted(advantages.trajectory, np.arange(len(forest.leaves) + 1))
    rows: list[Trajectory] = []
    for index, path in enumerate(forest.paths):
        root = forest.tree_start[forest.tree[path[0]]]
        spans = [slice(forest.offsets[row], forest.offsets[row + 1]) for row in (root, *path)]
        value = advantages.value[bounds[index] : bounds[index + 1]]
        rows.append(
            Trajectory(
                torch.from_numpy(np.concatenate([forest.tokens[s] for s in spans]).astype("int64")),
                int(forest.lengths[root]),
                torch.from_numpy(np.concatenate([forest.logprobs[s] for s in spans[1:]])),
                torch.from_numpy(np.repeat(value, forest.lengths[path]).astype("float32")),
            )
        )
    return rows


class FlatTrainer:
    """AdamW on padded rows; `budget` bounds the padded tokens of a micro-batch."""

    def __init__(self, model: PreTrainedModel, params: UpdateParams, budget: int) -> None:
        self._model = model
        self._model.set_attn_implementation("sdpa")
        self._model.train()
        self._params = params
        self._budget = budget
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=params.learning_rate)

    def update(self, batch: Batch) -> float:
        """One optimizer step on all trajectories; returns the loss."""
        rows = trajectories(batch)
        count = sum(len(row.tokens) - row.prompt for row in rows)
        total = 0.0
        for part in self._micro_batches(rows):
            loss = self._loss(part, batch.temperature) / count
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(self._model.parameters(), self._params.gradient_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return total

    def _micro_batches(self, rows: list[Trajectory]) -> Iterator[list[Trajectory]]:
        part: list[Trajectory] = []
        for row in sorted(rows, key=lambda row: -len(row.tokens)):
            if part and (len(part) + 1) * len(part[0].tokens) > self._budget:
                yield part
                part = []
            part.append(row)
        yield part

    def _loss(self, rows: list[Trajectory], temperature: float) -> Tensor:
        ids = nn.utils.rnn.pad_sequence([row.tokens for row in rows], batch_first=True)
        hidden = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        lengths = [len(row.tokens) for row in rows]
        predictors = [
            torch.arange(row.prompt - 1, length - 1) + index * ids.shape[1]
            for index, (row, length) in enumerate(zip(rows, lengths, strict=True))
        ]
        target = torch.cat([row.tokens[row.prompt :] for row in rows])
        logprobs, _ = chunked_logprobs(
            hidden.flatten(0, 1)[torch.cat(predictors)] / temperature,
            self._model.get_output_embeddings().weight,
            torch.arange(len(target)),
            target,
        )
        advantage = torch.cat([row.advantage for row in rows])
        units = Units(
            logprob=logprobs,
            log_ratio=logprobs - torch.cat([row.old for row in rows]),
            positive=advantage.clamp(min=0),
            negative=advantage.clamp(max=0),
            copies=torch.ones_like(advantage),
            rising=(advantage > 0).float(),
            falling=(advantage < 0).float(),
        )
        return clipped(units, self._params)["loss"]
