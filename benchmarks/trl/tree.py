"""treepo's side: tree rollouts, rewards, advantages and one update, in memory.

Prints a JSON line as grpo.py does. Usage: python tree.py MODEL_FOLDER ITERATIONS THREADS wall|cpu
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from workload import LEARNING_RATE, PROMPT_TOKENS, TOKENS, WIDTH, reward, texts

from treepo.advantages import compute
from treepo.batch import Batch
from treepo.engines.torch_tree import TorchEngine
from treepo.forest import Forest
from treepo.models import Policy, load_policy
from treepo.params import AdvantageParams, SamplingParams, UpdateParams
from treepo.sampling import Prompt, grow_tree
from treepo.trainer import Trainer

DEPTH = 4
CLOCK = {"wall": time.perf_counter, "cpu": time.process_time}[sys.argv[4]]


def rollout(policy: Policy, prompts: list[Prompt], seed: int) -> Forest:
    """Trees of full width and length: nothing ends a response early, as on the other side."""
    sampling = SamplingParams(
        width=WIDTH, depth=DEPTH, segment_length=TOKENS // DEPTH, initial_branching=(2, 2)
    )
    engine = TorchEngine(policy.model, frozenset(), sampling)
    growers = [grow_tree(prompt, sampling, seed, policy.decode) for prompt in prompts]
    trees = dict(engine.run(growers))
    return Forest.from_trees(trees[index] for index in range(len(prompts)))


def main() -> None:
    folder, iterations, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    policy = load_policy(folder)
    encoded = [policy.tokenizer.encode(text)[:PROMPT_TOKENS] for text in texts()]
    prompts = [Prompt(f"p{index}", tokens) for index, tokens in enumerate(encoded)]
    # A micro-batch holds one tree, as one of the other side holds one group.
    params = UpdateParams(learning_rate=LEARNING_RATE, micro_batch_tokens=2304, warm_up_steps=0)
    trainer = Trainer(policy.model, params)
    found: dict[str, Any] = {"seconds": [], "rollout": [], "response_tokens": [], "unique": []}
    for iteration in range(iterations):
        started = CLOCK()
        policy.model.eval()
        forest = rollout(policy, prompts, iteration)
        sampled = CLOCK()
        rewards = np.array([reward(policy.decode(tokens)) for tokens in forest.responses()])
        advantages = compute(forest, rewards, rewards, AdvantageParams())
        batch = Batch(forest, advantages, range(forest.trees), 1.0, TOKENS)
        trainer.update(batch, iteration)
        found["seconds"].append(CLOCK() - started)
        found["rollout"].append(sampled - started)
        found["response_tokens"].append(forest.trajectory_tokens / len(forest.leaves))
        found["unique"].append(forest.sampled_tokens)
    found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps(found))


if __name__ == "__main__":
    main()
