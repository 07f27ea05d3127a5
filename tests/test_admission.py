"""Who may go on: no batch stands still, none takes more than the memory has."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from treepo.engines.admission import Admission
from treepo.engines.kv import GIB, slot_bytes
from treepo.errors import UserError
from treepo.params import EngineParams, SamplingParams
from treepo.sampling import Request
from treepo.tree import Tree

CONFIG = transformers.LlamaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
SLOT = slot_bytes(CONFIG, torch.float32)


def admission(slots: int) -> Admission:
    params = EngineParams(memory=(slots + 0.5) * SLOT / GIB)
    return Admission(CONFIG, torch.float32, SamplingParams(), params)


@dataclass
class Growth:
    """What a tree holds after each of its steps; its largest is at least all of these."""

    steps: list[int]
    largest: int
    held: int = 0


def growths(rng: random.Random, count: int, slots: int) -> list[Growth]:
    made: list[Growth] = []
    for _ in range(count):
        largest = rng.randint(1, slots)
        steps = [rng.randint(0, largest) for _ in range(rng.randint(1, 6))]
        made.append(Growth(steps, largest))
    return made


@given(seed=st.integers(0, 100_000), count=st.integers(1, 12), slots=st.integers(1, 100))
def test_every_tree_comes_to_its_end(seed: int, count: int, slots: int) -> None:
    """In any order of asking; while one is left, one may go on."""
    rng, bank = random.Random(seed), admission(slots)
    assert bank.slots == slots
    trees = growths(rng, count, slots)
    while trees:
        largest = [tree.largest for tree in trees]
        went = []
        for at in rng.sample(range(len(trees)), len(trees)):
            tree, held = trees[at], [tree.held for tree in trees]
            held[at] = tree.steps[0]
            if bank.safe(held, largest):
                tree.held = tree.steps.pop(0)
                went.append(at)
            assert sum(tree.held for tree in trees) <= slots
        assert went
        trees = [tree for tree in trees if tree.steps]


def test_the_oldest_never_waits_and_the_others_leave_it_room() -> None:
    bank = admission(10)
    assert bank.safe([9, 0], [10, 10])
    assert bank.safe([1, 4], [6, 10])
    assert not bank.safe([1, 5], [6, 10])  # the oldest could no longer grow to its 6
    assert bank.safe([5, 1, 4], [5, 6, 10])  # the second can, once the first is done


def test_columns_fill_a_batch() -> None:
    params = EngineParams(columns=16, rows=2)
    bank = Admission(CONFIG, torch.float32, SamplingParams(), params)
    assert bank.open(trees=1, columns=15)
    assert not bank.open(trees=2, columns=2)
    assert not bank.open(trees=1, columns=16)
    assert bank.wide(columns=0, more=20)
    assert bank.wide(columns=8, more=8)
    assert not bank.wide(columns=8, more=9)


SMALL = SamplingParams(width=2, depth=2, segment_length=4)


def largest(memory: float, prompt: int) -> int:
    bank = Admission(CONFIG, torch.float32, SMALL, EngineParams(memory=memory))
    tree = Tree("p", [1] * prompt, 0)
    return bank.largest([Request(tree.root, 4, 0)])


def test_a_trees_largest_is_its_prompt_and_all_paths_apart() -> None:
    needed = 3 + 2 * 8
    assert largest((needed + 0.5) * SLOT / GIB, prompt=3) == needed
    with pytest.raises(UserError, match=r"engine\.memory"):
        largest((needed - 0.5) * SLOT / GIB, prompt=3)


def test_prompt_and_response_may_fill_the_context_and_no_more() -> None:
    context = CONFIG.max_position_embeddings
    assert largest(8, prompt=context - 8) == context + 8
    with pytest.raises(UserError, match=f"exceeds the model's {context} positions"):
        largest(8, prompt=context - 7)
