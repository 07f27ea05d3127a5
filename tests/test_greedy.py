"""Temperature 0: the most probable token, always the same, in trees too."""

from __future__ import annotations

import numpy as np
import torch

from treepo.engines.draws import draw
from treepo.engines.torch_tree import TorchEngine
from treepo.models import Policy, initial_policy
from treepo.params import ModelParams, SamplingParams
from treepo.sampling import Prompt, grow_tree
from treepo.tree import Tree

SMALL = ModelParams(hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64)


def test_draws_take_the_first_of_the_largest() -> None:
    logits = torch.tensor([[0.0, 3.0, 3.0], [2.0, -1.0, 0.0]])
    tokens, logprobs = draw(logits, np.array([0.99, 0.5]), 0.0)
    assert tokens.tolist() == [1, 0]
    assert logprobs.tolist() == [0.0, 0.0]
    assert logprobs.dtype == torch.float32


def grow(policy: Policy, params: SamplingParams, prompt: list[int], seed: int) -> Tree:
    engine = TorchEngine(policy.model, policy.eos, params.temperature, rows=1)
    growers = [grow_tree(Prompt("p", prompt), params, seed, policy.decode)]
    return dict(engine.run(growers))[0]


def greedy(policy: Policy, prompt: list[int], length: int) -> list[int]:
    """Feeds the whole text again for every token."""
    text = list(prompt)
    for _ in range(length):
        with torch.inference_mode():
            ids = torch.tensor([text])
            model = policy.model
            model.set_attn_implementation("sdpa")
            text.append(int(model(input_ids=ids).logits[0, -1].argmax()))
            model.set_attn_implementation("tree")
        if text[-1] in policy.eos:
            break
    return text[len(prompt) :]


def test_the_engine_follows_the_argmax_whatever_the_seed() -> None:
    policy = initial_policy(SMALL, seed=3)
    prompt = policy.tokenizer.encode("3+4=?", add_special_tokens=False)
    params = SamplingParams.sequential(1, 24, temperature=0)
    trees = [grow(policy, params, prompt, seed) for seed in (0, 1)]
    responses = [tree.response(tree.leaves()[0]) for tree in trees]
    assert responses[0] == responses[1] == greedy(policy, prompt, 24)
