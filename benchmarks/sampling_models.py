"""What `benchmarks/sampling.py` samples with, and from: models and prompts."""

from __future__ import annotations

import json
import os
import platform
import random
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from treepo.attention import implementation
from treepo.models import Policy, initial_policy, load_tokenizer
from treepo.params import ModelParams
from treepo.sampling import Prompt

# Layers, hidden size, heads, key heads, intermediate size of Qwen2.5 (tied embeddings up to 3b).
QWEN = {
    "0.5b": (24, 896, 14, 2, 4864),
    "1.5b": (28, 1536, 12, 2, 8960),
    "3b": (36, 2048, 16, 2, 11008),
    "7b": (28, 3584, 28, 4, 18944),
}
CPU_NAME = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)
ASK = "{problem}\nSolve it in short steps and end with the answer as a number."
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True)
class Question:
    """A prompt and its gold answer."""

    prompt: Prompt
    answer: str


def policy_of(source: str, device: str) -> Policy:
    """SmolLM2-135M, a tiny random model ("small_llama"), or a random Qwen2.5 ("0.5b" to "7b")."""
    if source not in QWEN:
        policy = initial_policy(ModelParams(source=source), 0)
        policy.model.to(device)  # pyright: ignore[reportArgumentType]
        return policy
    layers, hidden, heads, keys, inner = QWEN[source]
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        intermediate_size=inner,
        tie_word_embeddings=source != "7b",
        eos_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    model.set_attn_implementation(implementation())
    return Policy(model, load_tokenizer(ModelParams(source="smollm2")))


def questions(policy: Policy, count: int, data: Path) -> list[Question]:
    """The first `count` problems of the GSM8K test set; sums in words where it is not there."""
    if data.is_file():
        rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    else:
        rng = random.Random(0)
        pairs = [(rng.randrange(10, 99), rng.randrange(2, 9)) for _ in range(count)]
        rows = [
            {
                "id": f"sum-{at}",
                "problem": f"Ann has {a} boxes with {b} pens in each and gives {a} pens away. "
                "How many pens has she got left?",
                "answer": str(a * b - a),
            }
            for at, (a, b) in enumerate(pairs)
        ]
    return [
        Question(Prompt(row["id"], _tokens(policy, row["problem"])), row["answer"])
        for row in rows[:count]
    ]


def _tokens(policy: Policy, problem: str) -> list[int]:
    if policy.tokenizer.chat_template is None:
        return policy.tokenizer.encode(problem[:64], add_special_tokens=False)
    chat = [{"role": "user", "content": ASK.format(problem=problem)}]
    text = policy.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return policy.tokenizer.encode(text, add_special_tokens=False)


def last_number(text: str) -> str | None:
    """The answer as GSM8K's own scoring reads it: the last number of the response."""
    found = NUMBER.findall(text)
    return found[-1].replace(",", "").removesuffix(".0") if found else None


def processor() -> str:
    """What this machine computes with: its processor's name and how many of them there are."""
    told = Path("/proc/cpuinfo")
    found = CPU_NAME.search(told.read_text(encoding="utf-8")) if told.is_file() else None
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"
