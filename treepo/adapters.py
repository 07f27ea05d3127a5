"""Low-rank adapters (LoRA, arXiv 2106.09685): small matrices beside frozen weights are trained.

A linear layer computes x W^T + alpha/r (x A^T) B^T with W [out, in] frozen, A [r, in], B [out, r].
While it is trained the adapter lies beside W ("live"); a policy's folder holds W + alpha/r B A
("merged"), which needs no adapter to be loaded, and A and B in `adapter/`, in PEFT's own layout.
Training goes on from the first policy's W and A, B of the policy before, as W cannot be had back
exactly from the sum. Knows models and files; knows nothing of batches, optimizers or processes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from treepo.errors import UserError
from treepo.params import LoraParams

FOLDER = "adapter"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


class Adapter:
    """The adapter of one model, live in it from here on until it is merged."""

    def __init__(self, model: transformers.PreTrainedModel, params: LoraParams, seed: int) -> None:
        """Freeze the model and add to it A, random as seed says, and B, all zero.

        Raises UserError naming update.lora.targets where the model has no such layers.
        """
        # Not at import: it loads the modelling code, which takes seconds.
        from peft import LoraConfig, get_peft_model

        self._model = model
        self._config = LoraConfig(
            r=params.rank,
            lora_alpha=params.alpha,
            target_modules=_targets(model, params),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            self._wrapper: Any = get_peft_model(model, self._config)

    def load(self, folder: Path) -> None:
        """Go on from the adapter of the policy in `folder`.

        Raises UserError where there is none, or it has another shape or belongs to another model.
        """
        from peft import set_peft_model_state_dict

        files = [folder / FOLDER / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
        for file in files:
            if not file.is_file():
                raise UserError(f"{file}: missing; the policy was made without update.lora")
        stored, own = json.loads(files[0].read_text(encoding="utf-8")), self._values()
        names = {"r": "rank", "lora_alpha": "alpha", "target_modules": "targets"}
        for key, name in names.items():
            if stored.get(key) != own[key]:
                raise UserError(
                    f"{files[0]}: an adapter of {key} {stored.get(key)}, but update.lora.{name} "
                    f"makes it {own[key]}"
                )
        tensors = load_file(files[1])
        if _shapes(tensors) != _shapes(self._tensors()):
            raise UserError(f"{files[1]}: the adapter of another model")
        set_peft_model_state_dict(self._wrapper, tensors)

    def save(self, folder: Path) -> None:
        """Write A and B into `folder`/adapter, where `PeftModel.from_pretrained` reads them."""
        place = folder / FOLDER
        place.mkdir(parents=True)
        text = json.dumps(self._values(), indent=2, sort_keys=True)
        (place / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        save_file(self._tensors(), place / WEIGHTS_FILE, {"format": "pt"})

    def merge(self) -> None:
        """Add the adapter to the weights: the model is then a plain one, and this is of no use."""
        self._wrapper.merge_and_unload()
        self._model.requires_grad_(True)

    def _tensors(self) -> dict[str, Tensor]:
        """A and B of each layer, by the names that PEFT stores them under."""
        from peft import get_peft_model_state_dict

        found: dict[str, Tensor] = get_peft_model_state_dict(self._wrapper)
        return {name: tensor.detach().contiguous().cpu() for name, tensor in found.items()}

    def _values(self) -> dict[str, Any]:
        """The configuration as it is stored: nothing in it tells where or in what order it arose.

        PEFT would write the base model's path, and a set in the order of this process's hashes.
        """
        values = {**self._config.to_dict(), "base_model_name_or_path": None, "inference_mode": True}
        return {key: sorted(v) if isinstance(v, set) else v for key, v in values.items()}


def _targets(model: transformers.PreTrainedModel, params: LoraParams) -> list[str]:
    """Names of the layers to adapt, as they are called within their blocks."""
    head = model.get_output_embeddings()
    linear = (
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    there = sorted(set(linear))
    if params.targets == "all-linear":
        return there
    unknown = sorted(set(params.targets) - set(there))
    if unknown or not params.targets:
        what = f"the model has no linear layers '{unknown[0]}'" if unknown else "names no layers"
        raise UserError(f"update.lora.targets: {what}; there are: {', '.join(there)}")
    return sorted(set(params.targets))


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
