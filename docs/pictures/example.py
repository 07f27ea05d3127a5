"""The example: one sampled tree, which the pictures of docs/concepts are drawn from.

docs/concepts/example.json holds it, one node a line, in the order of `Tree.nodes`. It is chosen
among the trees of a few prompts as the one that shows most: right and wrong answers, a fallback
below the root, much that is shared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from docs.pictures.source import Source
from treepo.advantages.groups import differing
from treepo.forest import Forest
from treepo.params import SamplingParams
from treepo.sampling import Grower
from treepo.tree import Node, Segment, Tree

FILE = Path(__file__).parents[1] / "concepts" / "example.json"
PARAMS = SamplingParams(width=10, depth=10, segment_length=4, initial_branching=2, max_tokens=40)
PROMPTS = 48


@dataclass(frozen=True)
class Example:
    """A tree with what it does not say itself.

    text: of each node; step: the inference step that sampled the node, 0 for the prompt's;
    reward: of each leaf; gold: the right answer.
    """

    tree: Tree
    text: dict[Node, str]
    step: dict[Node, int]
    reward: dict[Node, float]
    gold: str

    @cached_property
    def forest(self) -> Forest:
        """The tree alone."""
        return Forest.from_trees([self.tree])


def read_example() -> Example:
    """The committed example."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = content["nodes"]
    tree = Tree(content["prompt_id"], rows[0]["tokens"], seed=0)
    nodes = [tree.root]
    for key, row in enumerate(rows[1:]):
        segment = Segment(row["tokens"], row["logprobs"])
        node = tree.grow(nodes[row["parent"]], segment, key)
        node.finish, node.restarted = row["finish"], row["restart"]
        nodes.append(node)
    return Example(
        tree,
        text={node: row["text"] for node, row in zip(nodes, rows, strict=True)},
        step={node: row["step"] for node, row in zip(nodes, rows, strict=True)},
        reward=dict(zip(tree.leaves(), content["rewards"], strict=True)),
        gold=content["gold"],
    )


def sample_example(source: Source) -> str:
    """The best of many trees, as `read_example` reads it."""
    prompts = source.prompts[:PROMPTS]
    steps: list[dict[int, int]] = [{} for _ in prompts]
    growers = (
        _watched(source.grower(prompt, PARAMS), log)
        for prompt, log in zip(prompts, steps, strict=True)
    )
    found = [
        _example(source, tree, steps[index]) for index, tree in source.grow(growers, PARAMS).items()
    ]
    return _written(max(found, key=_shows))


def _watched(grower: Grower, steps: dict[int, int]) -> Grower:
    """The same grower; notes the step of each segment by the key of its node."""
    requests, step = next(grower), 1
    while True:
        steps |= {request.seed: step for request in requests}
        segments = yield requests
        try:
            requests = grower.send(segments)
        except StopIteration as stop:
            return stop.value
        step += 1


def _example(source: Source, tree: Tree, steps: dict[int, int]) -> Example:
    def step(node: Node) -> int:
        # The upper part of a split was sampled with the part that kept the key.
        return steps[node.key] if node.key in steps else step(node.children[0])

    leaves = tree.leaves()
    rewards = source.rewards(
        tree.prompt_id, (source.policy.decode(tree.response(leaf)) for leaf in leaves)
    )
    return Example(
        tree,
        text={node: source.policy.decode(node.tokens) for node in tree.nodes()},
        step={node: 0 if node.parent is None else step(node) for node in tree.nodes()},
        reward=dict(zip(leaves, rewards, strict=True)),
        gold=source.answers[tree.prompt_id],
    )


def _shows(example: Example) -> tuple[float, ...]:
    """How much there is to see; the largest is taken."""
    forest, rewards = example.forest, list(example.reward.values())
    mixed = differing(forest, np.array(rewards)) & (forest.depth > 0)
    return (
        0 < sum(rewards) < len(rewards),
        12 <= len(example.text) <= 22 and max(example.step.values()) <= 7,
        any(node.restarted and node.depth > 1 for node in example.tree.nodes()),
        bool(mixed.any()),
        len({leaf.depth for leaf in example.reward}) > 1,
        forest.trajectory_tokens / forest.sampled_tokens,
    )


def _written(example: Example) -> str:
    """The example as JSON."""
    number = {node: index for index, node in enumerate(example.text)}
    rows = ",\n  ".join(
        json.dumps(
            {
                "parent": -1 if node.parent is None else number[node.parent],
                "step": example.step[node],
                "restart": node.restarted,
                "finish": node.finish,
                "text": text,
                "tokens": node.tokens,
                "logprobs": [round(value, 4) for value in node.logprobs],
            }
        )
        for node, text in example.text.items()
    )
    rewards = list(example.reward.values())
    head = {"prompt_id": example.tree.prompt_id, "gold": example.gold, "rewards": rewards}
    return f'{json.dumps(head)[:-1]},\n "nodes": [\n  {rows}\n ]}}\n'
