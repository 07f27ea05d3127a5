"""The trainer: packed trees through the model and one optimizer, on Accelerate.

Knows a batch and the objective; knows nothing of rewards, files of an experiment or engines. The
optimizer's state travels with the policy, as safetensors.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from treepo import mismatch
from treepo.batch import Batch
from treepo.cutting import cut
from treepo.errors import UserError, WorkError
from treepo.logprobs import TargetLogprobs
from treepo.objective import OBJECTIVES, evaluate
from treepo.packing import pack
from treepo.params import UpdateParams
from treepo.ranks import Ranks
from treepo.schedules import learning_rate
from treepo.seeds import derive
from treepo.sharding import laid_out, make_whole, shard, whole
from treepo.tally import Tally

# Not beside the weights, where whoever loads the policy would take it for a part of them.
STATE_FILE = "trainer/optimizer.safetensors"


class Trainer:
    """One model and its AdamW, over the whole experiment; frozen parameters stay as they are.

    _step: optimizer steps taken; _skipped: steps skipped in a row since the last one taken.
    """

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        params: UpdateParams,
        device: str | None = None,
    ) -> None:
        """device: where to train, of a model to be sharded; None: where the model is."""
        self._accelerator = Accelerator(cpu=(device or model.device.type) == "cpu")
        self._ranks = Ranks(self._accelerator)
        self._params = params
        self._objective = OBJECTIVES.get(params.objective)()
        if params.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self._model = model
        self._policy: nn.Module = TargetLogprobs(model)
        if params.sharding:
            shard(self._policy, model, self._accelerator.device)
        else:
            self._policy = self._accelerator.prepare(self._policy)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=params.learning_rate, weight_decay=params.weight_decay
        )
        self._optimizer = self._accelerator.prepare(optimizer)
        self._step = 0
        self._skipped = 0

    @property
    def is_first_rank(self) -> bool:
        """Whether this process is the one that writes; all ranks end with the same weights."""
        return self._accelerator.is_main_process

    def update(self, batch: Batch, seed: int) -> dict[str, float]:
        """Optimize on the batch; returns metrics, means over the units of the flat batch.

        A minibatch whose advantages are all zero takes no step, nor does one whose loss or
        gradient is not finite; both are counted. Raises WorkError where trainer and engine differ
        by more than `params` allows, or after `params.skip_limit` skipped steps in a row.
        """
        self._model.train()
        tally = Tally()
        counts = {"steps": 0.0, "idle_minibatches": 0.0, "skipped_steps": 0.0}
        self._ranks.agree([*batch.arrays(), seed, self._step])
        pieces = cut(batch.forest, self._params.micro_batch_tokens, batch.trees)
        counts["repeated_tokens"] = float(pieces.repeated_tokens)
        minibatches = self._minibatches(batch.trees, seed)
        batch = self._with_old_logprobs(batch.cut(pieces), tally)
        for trees in map(pieces.parts, minibatches):
            if batch.idle(trees):
                counts["idle_minibatches"] += 1
                continue
            found = self._gradients(batch, trees, check=not counts["steps"])
            if self._optimize(found):
                counts["steps"] += 1
                tally.merge(found)
            else:
                counts["skipped_steps"] += 1
        return {**tally.result(), **counts, "total_steps": float(self._step)}

    def _minibatches(self, trees: Sequence[int], seed: int) -> Iterator[list[int]]:
        """Whole trees, in a new order each epoch."""
        rng = np.random.default_rng(derive(seed, "minibatches"))
        for _ in range(self._params.epochs if trees else 0):
            order = rng.permutation(np.array(trees))
            for part in np.array_split(order, min(self._params.minibatches, len(order))):
                yield part.tolist()

    def _with_old_logprobs(self, batch: Batch, tally: Tally) -> Batch:
        """Where importance sampling corrects for the engine: the trainer's own logprobs."""
        params = self._params
        if params.importance_cap is None or not batch.trees:
            return batch
        forest = batch.forest
        old = np.zeros(len(forest.tokens), dtype=np.float32)
        # As many passes on every rank: sharded weights are gathered in each.
        for part in self._ranks.micro_batches(forest, batch.trees, params.micro_batch_tokens):
            packed = pack(forest, part.trees).to(self._accelerator.device)
            with torch.no_grad(), self._precision():
                logprobs, _ = self._policy(packed, batch.temperature, params.logit_chunk)
            if part.counted:
                old[packed.target_token] = logprobs.float().cpu().numpy()
        old = self._ranks.sum(old)
        through = forest.leaf_counts * forest.sampled * np.isin(forest.tree, batch.trees)
        copies = np.repeat(through, forest.lengths)
        measured = mismatch.measure(
            *(torch.from_numpy(values[copies > 0]) for values in (old, forest.logprobs, copies))
        )
        mismatch.refuse(measured.result(), params)
        tally.merge(measured)
        return replace(batch, old=old)

    def _gradients(self, batch: Batch, trees: list[int], check: bool) -> Tally:
        """Loss and gradients of a minibatch, summed over micro-batches and ranks.

        check: compare the logprobs with the engine's, before the first step has changed them.
        """
        params, tally = self._params, Tally()
        shares = batch.shares(trees, self._objective.weighting)
        total = 0.0
        for part in self._ranks.micro_batches(batch.forest, trees, params.micro_batch_tokens):
            with self._ranks.exchange(self._policy, now=part.last), self._naming_the_budget():
                loss, seen = self._micro_batch(batch, part.trees, shares, check)
                # The exchange takes the mean over ranks.
                self._accelerator.backward(loss * self._ranks.count * part.counted)
            if part.counted:
                total += float(loss.detach())
                tally.merge(seen)
        found = Tally()
        parts = self._ranks.gather((tally, total))
        for of_rank, _ in parts:
            found.merge(of_rank)
        found.add_mean("loss", sum(loss for _, loss in parts))
        mismatch.refuse(found.result(), params)
        return found

    def _micro_batch(
        self, batch: Batch, trees: list[int], shares: np.ndarray, check: bool
    ) -> tuple[Tensor, Tally]:
        """Loss of these trees, with gradient, and its statistics."""
        params = self._params
        packed = pack(batch.forest, trees).to(self._accelerator.device)
        with self._precision():
            logprobs, entropy = self._policy(packed, batch.temperature, params.logit_chunk)
        tokens = batch.tokens(packed, logprobs, entropy, params.importance_cap)
        entries = batch.entries(trees, shares)
        loss, tally = evaluate(self._objective, tokens, entries, params)
        if check and batch.old is None:
            copies = tokens.through(entries, np.ones(len(entries.node)))
            tally.merge(mismatch.measure(logprobs, tokens.old, copies))
        return loss, tally

    @contextmanager
    def _naming_the_budget(self) -> Generator[None]:
        """Where memory does not suffice, say which parameters decide how much is needed."""
        try:
            yield
        except RuntimeError as error:
            # PyTorch has a type of its own for CUDA only.
            if "allocate memory" not in str(error) and "out of memory" not in str(error):
                raise
            tokens = self._params.micro_batch_tokens
            raise WorkError(
                f"update: out of memory; lower update.micro_batch_tokens (now {tokens}) or "
                "update.logit_chunk, or set update.gradient_checkpointing"
            ) from None

    def _precision(self) -> torch.autocast:
        return torch.autocast(
            self._accelerator.device.type,
            torch.bfloat16,
            enabled=self._params.precision == "bfloat16",
        )

    def _optimize(self, found: Tally) -> bool:
        """Take the step, or skip it where its numbers are not finite; says which."""
        rate = learning_rate(self._step, self._params)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        norm = self._accelerator.clip_grad_norm_(
            self._model.parameters(), self._params.gradient_clip
        )
        assert norm is not None
        norm = float(whole(norm))
        loss = found.result()["loss"]
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            self._optimizer.step()
            self._step += 1
        self._optimizer.zero_grad()
        self._skipped = 0 if finite else self._skipped + 1
        if self._skipped >= self._params.skip_limit:
            raise WorkError(
                f"update: loss {loss:g} or gradient norm {norm:g} is not finite, "
                f"{self._skipped} times in a row (update.skip_limit)"
            )
        found.add_mean("grad_norm", norm)
        found.add_mean("learning_rate", rate)
        return finite

    def make_whole(self) -> None:
        """End training: the first rank's model has all weights again; all ranks take part."""
        make_whole(self._model, keep=self.is_first_rank)

    def save_state(self, folder: Path) -> None:
        """Write the optimizer's state, whole; all ranks take part, the first one writes."""
        tensors = {"step": torch.tensor(self._step), "skipped": torch.tensor(self._skipped)}
        for name, state in self._states():
            for key, value in state.items():
                full = whole(value)
                if self.is_first_rank:
                    tensors[f"{name}.{key}"] = full.cpu()
        if not self.is_first_rank:
            return
        file = folder / STATE_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, file)

    def load_state(self, folder: Path) -> None:
        """Read what `save_state` wrote; a folder without it leaves a fresh optimizer.

        Raises UserError where it is the state of another model, or of another version.
        """
        file = folder / STATE_FILE
        if not file.is_file():
            return
        tensors = load_file(file)
        if not {"step", "skipped"} <= tensors.keys():
            raise UserError(f"{file}: not the optimizer's state of this version of treepo")
        self._step, self._skipped = (int(tensors.pop(name)) for name in ("step", "skipped"))
        parameters = dict(self._model.named_parameters())
        for key, value in tensors.items():
            name, _, part = key.rpartition(".")
            parameter = parameters.get(name)
            # A scalar counts the parameter's steps.
            if parameter is None or (value.dim() and value.shape != parameter.shape):
                raise UserError(f"{file}: the state of another model ({key} does not fit this one)")
            # Counts stay on the CPU, where AdamW keeps them.
            placed = laid_out(value, parameter) if value.dim() else value
            self._optimizer.state[parameter][part] = placed

    def _states(self) -> Iterator[tuple[str, dict[str, Tensor | Any]]]:
        for name, parameter in self._model.named_parameters():
            if parameter in self._optimizer.state:
                yield name, self._optimizer.state[parameter]
