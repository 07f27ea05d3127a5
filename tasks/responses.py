"""What rollout, score and evaluate share: sample with the policy, grade with the verifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from tasks.tables import recent_table, table_of
from treepo.engines.orders import TreeOrder, TreeSampler
from treepo.errors import UserError
from treepo.forest import Forest
from treepo.models import Policy
from treepo.params import SamplingParams
from treepo.sampling import Prompt
from treepo.schemas import SCORES_SCHEMA, check_answers, check_problems
from treepo.scoring import Response, Verdict, VerifierPool, compose
from treepo.tree import Tree

NO_GOLDS: Mapping[str, str] = {}


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a problems table."""
    table = recent_table(path, check_problems)
    columns = (table["prompt_id"].to_pylist(), table["prompt_tokens"].to_pylist())
    return [Prompt(name, tokens) for name, tokens in zip(*columns, strict=True)]


def read_answers(path: Path) -> dict[str, str]:
    """Gold answer of each prompt_id."""
    table = recent_table(path, check_answers)
    return dict(zip(table["prompt_id"].to_pylist(), table["answer"].to_pylist(), strict=True))


def sample(
    trees: TreeSampler,
    policy: Policy,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    seed: int,
    finished: dict[str, Tree],
    golds: Mapping[str, str] = NO_GOLDS,
) -> list[Tree]:
    """One tree a prompt, in their order; those in `finished`, by prompt_id, are not sampled again.

    Each tree is added to `finished` as soon as it is done, so that none is lost with the engine.
    golds: answer of each prompt_id, for policies by value. Raises UserError where prompts and
    responses may not fit the model.
    """
    refuse_too_long(policy, prompts, sampling)
    missing = [prompt for prompt in prompts if prompt.prompt_id not in finished]
    orders = [TreeOrder(prompt, seed, golds.get(prompt.prompt_id)) for prompt in missing]
    for _, tree in trees.run(orders):
        finished[tree.prompt_id] = tree
    return [finished[prompt.prompt_id] for prompt in prompts]


def refuse_too_long(policy: Policy, prompts: Sequence[Prompt], sampling: SamplingParams) -> None:
    """Raise UserError where prompts and responses may not fit the model."""
    longest = max((len(prompt.tokens) for prompt in prompts), default=0)
    if longest + sampling.token_limit > policy.max_positions:
        raise UserError(
            f"sampling: prompts of {longest} and responses of {sampling.token_limit} tokens exceed "
            f"the model's {policy.max_positions} positions; lower sampling.depth, "
            "sampling.segment_length, evaluation.max_tokens or data.max_prompt_tokens"
        )


def grade(
    forest: Forest, policy: Policy, answers: Mapping[str, str], pool: VerifierPool, where: str
) -> list[Verdict]:
    """A verdict and reward for each trajectory.

    Raises UserError where a prompt has no gold answer.
    """
    pairs: list[tuple[str, object]] = []
    responses: list[Response] = []
    for leaf, tokens in zip(forest.leaves, forest.responses(), strict=True):
        prompt_id = forest.prompt_id[leaf]
        if prompt_id not in answers:
            raise UserError(f"{where}: no row has the prompt_id '{prompt_id}' of the forest")
        responses.append(Response(policy.decode(tokens), len(tokens)))
        pairs.append((answers[prompt_id], responses[-1].text))
    return compose(pool.score(pairs), responses, pool.params)


def scores_table(forest: Forest, verdicts: Sequence[Verdict]) -> pa.Table:
    """The scores artifact: one row a trajectory."""
    columns = [
        forest.tree[forest.leaves],
        forest.node[forest.leaves],
        [verdict.reward for verdict in verdicts],
        [verdict.correct for verdict in verdicts],
        [verdict.answer for verdict in verdicts],
        [verdict.reason for verdict in verdicts],
        [
            [{"name": name, "value": value} for name, value in verdict.components.items()]
            for verdict in verdicts
        ],
    ]
    return table_of(SCORES_SCHEMA, columns)
