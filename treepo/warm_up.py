"""Warm-up: a short supervised run on worked solutions, so that RL has something to start from.

A solution is a tree of one path, so the packed forward pass of the trainer serves here too.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
import transformers

from treepo.forest import Forest
from treepo.logprobs import target_logprobs
from treepo.models import Policy
from treepo.packing import pack
from treepo.params import WarmUpParams
from treepo.seeds import derive
from treepo.tree import Segment, Tree

# Single losses are noisy; a target must hold for the mean of this many steps.
SMOOTHED_STEPS = 20
Example = tuple[list[int], list[int]]


def warm_up(
    policy: Policy, pairs: Sequence[Example], params: WarmUpParams, seed: int
) -> Iterator[dict[str, float]]:
    """Train the policy's model in place; yields {"loss", "step"} after each step.

    loss: mean nats a solution token. Ends after `steps`, or when `target_loss` is reached.

    pairs: (prompt tokens, solution tokens with the end-of-sequence token), one a problem.
    """
    model = policy.model.train()
    recent: deque[float] = deque(maxlen=SMOOTHED_STEPS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.learning_rate, weight_decay=0.01)
    for step, chosen in enumerate(_batches(len(pairs), params, seed)):
        for group in optimizer.param_groups:
            group["lr"] = params.learning_rate * schedule(step, params)
        packed = pack(_as_forest([pairs[index] for index in chosen]), range(len(chosen)))
        logprobs, _ = target_logprobs(model, packed.to(model.device), temperature=1.0)
        loss = -logprobs.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(float(loss.detach()))
        yield {"loss": recent[-1], "step": step + 1.0}
        full = len(recent) == recent.maxlen
        if params.target_loss and full and fmean(recent) < params.target_loss:
            return


def examples(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: transformers.PreTrainedTokenizerBase,
    eos: int,
    params: WarmUpParams,
    seed: int,
) -> list[Example]:
    """Prompt and solution of each row that has a solution.

    rows: with prompt_tokens, solution and answer. A share `answer_only` of them shows the boxed
    answer alone: a policy with both habits has something to choose from.
    """
    rng = np.random.default_rng(derive(seed, "answer_only"))
    made: list[Example] = []
    for row in rows:
        if not row["solution"]:
            continue
        short = rng.random() < params.answer_only
        text = f"\\boxed{{{row['answer']}}}" if short else row["solution"]
        made.append((list(row["prompt_tokens"]), [*tokenizer.encode(text), eos]))
    return made


def schedule(step: int, params: WarmUpParams) -> float:
    """Share of the peak learning rate: linear increase, then half a cosine down to 10 %."""
    if step < params.warm_up_steps:
        return (step + 1) / params.warm_up_steps
    progress = (step - params.warm_up_steps) / max(1, params.steps - params.warm_up_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def _batches(count: int, params: WarmUpParams, seed: int) -> Iterator[list[int]]:
    """`steps` batches of distinct examples, epoch after epoch in a new order."""
    order: list[int] = []
    epoch = 0
    size = min(params.batch_size, count)
    for _ in range(params.steps):
        if len(order) < size:
            order = np.random.default_rng(derive(seed, "epoch", epoch)).permutation(count).tolist()
            epoch += 1
        yield order[:size]
        order = order[size:]


def _as_forest(examples: Sequence[Example]) -> Forest:
    trees: list[Tree] = []
    for index, (prompt, solution) in enumerate(examples):
        tree = Tree(str(index), prompt, seed=0)
        tree.grow(tree.root, Segment(solution, [0.0] * len(solution)), key=0).finish = "eos"
        trees.append(tree)
    return Forest.from_trees(trees)
