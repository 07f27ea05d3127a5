"""The trainer: packed trees through the model and one optimizer, on Accelerate.

Knows forests, per-node numbers and the objective; knows nothing of rewards, files of an
experiment or engines. The optimizer's state travels with the policy, as safetensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from treepo.advantages import Advantages
from treepo.errors import WorkError
from treepo.forest import Forest
from treepo.logprobs import target_logprobs
from treepo.objective import Targets, clipped_loss, statistics
from treepo.packing import PackedTrees, micro_batches, pack
from treepo.params import UpdateParams
from treepo.seeds import derive

STATE_FILE = "optimizer.safetensors"


@dataclass(frozen=True)
class Batch:
    """What one update learns from. temperature: that of the behaviour policy."""

    forest: Forest
    advantages: Advantages
    trees: Sequence[int]
    temperature: float

    @cached_property
    def positive(self) -> np.ndarray:
        """P of each node, float64 [rows]."""
        return self.advantages.of_nodes(self.forest)[0]

    @cached_property
    def negative(self) -> np.ndarray:
        """Q of each node, float64 [rows]."""
        return self.advantages.of_nodes(self.forest)[1]


class Trainer:
    """One model and its AdamW. `step` counts optimizer steps over the whole experiment."""

    def __init__(self, model: PreTrainedModel, params: UpdateParams) -> None:
        self._accelerator = Accelerator(cpu=model.device.type == "cpu")
        self._params = params
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay
        )
        self._model, self._optimizer = self._accelerator.prepare(model, optimizer)
        self._step = 0

    def update(self, batch: Batch, seed: int) -> dict[str, float]:
        """Optimize on the batch; returns metrics, means over tokens of the flat batch.

        Raises WorkError where the first forward pass does not give the logprobs that the engine
        stored, within `params.probe_tolerance`, or where the loss is not finite.
        """
        self._model.train()
        history: list[dict[str, float]] = []
        rng = np.random.default_rng(derive(seed, "minibatches"))
        for _ in range(self._params.epochs if batch.trees else 0):
            order = rng.permutation(np.array(batch.trees))
            for trees in np.array_split(order, min(self._params.minibatches, len(order))):
                history.append(self._minibatch(batch, trees.tolist(), probe=not history))
        mean = {
            key: float(np.mean([entry[key] for entry in history])) for key in (history or [{}])[0]
        }
        if history:
            mean["log_ratio_max"] = max(entry["log_ratio_max"] for entry in history)
            mean["probe"] = history[0]["log_ratio_max"]
        return {**mean, "steps": float(len(history)), "total_steps": float(self._step)}

    def _minibatch(self, batch: Batch, trees: list[int], probe: bool) -> dict[str, float]:
        """One optimizer step on whole trees."""
        forest, params = batch.forest, self._params
        through = forest.lengths * forest.leaf_counts * forest.sampled
        flat_tokens = int(through[np.isin(forest.tree, trees)].sum())
        sums: list[dict[str, Tensor]] = []
        for part in micro_batches(forest, trees, params.micro_batch_tokens):
            packed = pack(forest, part).to(self._accelerator.device)
            logprobs, entropy = target_logprobs(self._model, packed, batch.temperature)
            targets = batch_targets(batch, packed, logprobs)
            loss = clipped_loss(logprobs, targets, params) / flat_tokens
            values = statistics(logprobs, targets, params)
            values["entropy"] = (entropy * targets.copies).sum()
            values["loss"] = loss.detach() * flat_tokens
            if probe:
                self._check_probe(values)
            self._accelerator.backward(loss)
            sums.append(values)
        metrics = {
            key: float(sum(float(entry[key]) for entry in sums)) / flat_tokens for key in sums[0]
        }
        metrics["log_ratio_max"] = max(float(entry["log_ratio_max"]) for entry in sums)
        return {**metrics, **self._optimize(metrics["loss"])}

    def _optimize(self, loss: float) -> dict[str, float]:
        warm_up = min(1.0, (self._step + 1) / max(1, self._params.warm_up_steps))
        rate = self._params.learning_rate * warm_up
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        norm = self._accelerator.clip_grad_norm_(
            self._model.parameters(), self._params.gradient_clip
        )
        assert norm is not None
        if not np.isfinite(loss) or not torch.isfinite(norm):
            raise WorkError(f"update: loss {loss} or gradient norm {float(norm)} is not finite")
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1
        return {"grad_norm": float(norm), "learning_rate": rate}

    def _check_probe(self, values: dict[str, Tensor]) -> None:
        worst = float(values["log_ratio_max"])
        if not worst <= self._params.probe_tolerance:
            raise WorkError(
                f"update: engine and trainer differ by {worst:.2g} nats before the first step "
                f"(update.probe_tolerance {self._params.probe_tolerance:g})"
            )

    def save_state(self, folder: Path) -> None:
        """Write the optimizer's state."""
        tensors: dict[str, Tensor] = {"step": torch.tensor(self._step)}
        for name, state in self._states():
            tensors |= {f"{name}.{key}": value for key, value in state.items()}
        save_file(tensors, folder / STATE_FILE)

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote; a folder without it leaves a fresh optimizer."""
        if not (folder / STATE_FILE).is_file():
            return
        tensors = load_file(folder / STATE_FILE)
        self._step = int(tensors.pop("step"))
        for name, parameter in self._model.named_parameters():
            prefix = f"{name}."
            state = {
                key.removeprefix(prefix): value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
            if state:
                self._optimizer.state[parameter] = state

    def _states(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, parameter in self._model.named_parameters():
            if parameter in self._optimizer.state:
                yield name, self._optimizer.state[parameter]


def batch_targets(batch: Batch, packed: PackedTrees, like: Tensor) -> Targets:
    """The numbers of the objective for each target token, with the type and device of `like`."""
    rows = packed.target_row
    columns = (
        batch.forest.logprobs[packed.target_token],
        batch.positive[rows],
        batch.negative[rows],
        batch.forest.leaf_counts[rows],
    )
    return Targets(*(torch.from_numpy(column).to(like) for column in columns))
