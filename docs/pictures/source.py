"""What sampled pictures are sampled from: an experiment's warm-started policy and its problems."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from tasks.responses import read_answers, read_prompts
from treepo.engines.torch_tree import TorchEngine
from treepo.models import Policy, load_policy
from treepo.params import SamplingParams
from treepo.sampling import Grower, Prompt, grow_tree
from treepo.scoring import boxed_answer
from treepo.tree import Tree

SEED = 0


@dataclass(frozen=True)
class Source:
    """A policy with the held-out problems; answers: by prompt_id."""

    policy: Policy
    prompts: list[Prompt]
    answers: dict[str, str]

    @classmethod
    def of(cls, experiment: Path) -> Source:
        """That of an experiment's folder."""
        torch.set_num_threads(1)  # sums depend on the number of threads, so trees do
        problems = experiment / "data" / "heldout.parquet"
        policy = load_policy(experiment / "policy" / "000000")
        return cls(policy, read_prompts(problems), read_answers(problems))

    def rewards(self, prompt_id: str, responses: Iterable[str]) -> list[float]:
        """One where the box holds the answer."""
        gold = self.answers[prompt_id]
        return [float(boxed_answer(response) == gold) for response in responses]

    def grower(self, prompt: Prompt, params: SamplingParams) -> Grower:
        """The prompt's tree, still to be grown."""
        judge = partial(self.rewards, prompt.prompt_id)
        return grow_tree(prompt, params, SEED, self.policy.decode, self.policy.encode, judge)

    def grow(self, growers: Iterable[Grower], params: SamplingParams) -> dict[int, Tree]:
        """The trees by the place of their growers, in the order of finishing."""
        engine = TorchEngine(self.policy.model, self.policy.eos, params)
        return dict(engine.run(growers))
