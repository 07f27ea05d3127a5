"""What rollout, score and evaluate share: sample with the policy, grade with the verifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from tasks.tables import table_of
from treepo.engines.torch_tree import TorchEngine
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.models import Policy
from treepo.params import EngineParams, SamplingParams
from treepo.sampling import Prompt, grow_tree
from treepo.schemas import SCORES_SCHEMA, check_answers, check_problems
from treepo.scoring import Verdict, VerifierPool
from treepo.storage import read_table
from treepo.tree import Tree


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a problems table."""
    table = read_table(path, check_problems)
    columns = (table["prompt_id"].to_pylist(), table["prompt_tokens"].to_pylist())
    return [Prompt(name, tokens) for name, tokens in zip(*columns, strict=True)]


def read_answers(path: Path) -> dict[str, str]:
    """Gold answer of each prompt_id."""
    table = read_table(path, check_answers)
    return dict(zip(table["prompt_id"].to_pylist(), table["answer"].to_pylist(), strict=True))


def sample(
    policy: Policy,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    engine: EngineParams,
    seed: int,
    judge: Callable[[str, list[str]], list[float]] | None = None,
) -> list[Tree]:
    """One tree a prompt, in their order; judge: rewards of responses to a prompt_id.

    Raises UserError where prompts and responses may not fit the model.
    """
    longest = max((len(prompt.tokens) for prompt in prompts), default=0)
    if longest + sampling.token_limit > policy.max_positions:
        raise UserError(
            f"sampling: prompts of {longest} and responses of {sampling.token_limit} tokens exceed "
            f"the model's {policy.max_positions} positions; lower sampling.depth, "
            "sampling.segment_length, evaluation.max_tokens or data.max_prompt_tokens"
        )
    runner = TorchEngine(policy.model, policy.eos, sampling.temperature, engine.rows)
    growers = (
        grow_tree(
            prompt,
            sampling,
            seed,
            policy.decode,
            encode=policy.encode,
            judge=judge and partial(judge, prompt.prompt_id),
        )
        for prompt in prompts
    )
    trees = dict(runner.run(growers))
    return [trees[index] for index in range(len(prompts))]


def grade(
    forest: Forest, policy: Policy, answers: Mapping[str, str], pool: VerifierPool, where: str
) -> list[Verdict]:
    """A verdict for each trajectory. Raises UserError where a prompt has no gold answer."""
    pairs: list[tuple[str, object]] = []
    for leaf, tokens in zip(forest.leaves, forest.responses(), strict=True):
        prompt_id = forest.prompt_id[leaf]
        if prompt_id not in answers:
            raise UserError(f"{where}: no row has the prompt_id '{prompt_id}' of the forest")
        pairs.append((answers[prompt_id], policy.decode(tokens)))
    return pool.score(pairs)


def scores_table(forest: Forest, verdicts: Sequence[Verdict]) -> pa.Table:
    """The scores artifact: one row a trajectory."""
    columns = [
        forest.tree[forest.leaves],
        forest.node[forest.leaves],
        [verdict.reward for verdict in verdicts],
        [verdict.correct for verdict in verdicts],
        [verdict.answer for verdict in verdicts],
        [verdict.reason for verdict in verdicts],
        [[{"name": "verifier", "value": verdict.reward}] for verdict in verdicts],
    ]
    return table_of(SCORES_SCHEMA, columns)
