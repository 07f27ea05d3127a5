"""Packed rows, their attention and their chunked logprobs, each against a plain computation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from forests import forests
from hypothesis import given, settings
from hypothesis import strategies as st
from policies import sampled, tiny
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from treepo.errors import UserError, WorkError
from treepo.forest import Forest
from treepo.logprobs import chunked_logprobs, forest_logprobs, target_logprobs
from treepo.models import initial_policy
from treepo.packed_attention import FlexContext, blocks, flex_mask, packed_context
from treepo.packing import micro_batches, pack, tree_tokens
from treepo.params import ModelParams, UpdateParams
from treepo.trainer import Trainer
from treepo.tree import Segment, Tree

SIZE = ModelParams(hidden_size=16, layers=2, heads=4, kv_heads=2, intermediate_size=24)


def ancestors(forest: Forest) -> np.ndarray:
    """Which token of the forest sees which, by walking up from each node: bool [tokens, tokens]."""
    seen = np.zeros((len(forest.tokens), len(forest.tokens)), dtype=bool)
    for row in range(len(forest)):
        above, span = row, []
        while above >= 0:
            span += range(forest.offsets[above], forest.offsets[above + 1])
            above = int(forest.parent_row[above])
        for token in range(forest.offsets[row], forest.offsets[row + 1]):
            seen[token, [other for other in span if other <= token]] = True
    return seen


def renumbered(forest: Forest, seed: int) -> Forest:
    """The same trees with their nodes in another order, parents still first."""
    random = np.random.default_rng(seed)
    key = random.random(len(forest))
    order: list[int] = []
    for tree in range(forest.trees):
        rows = range(forest.tree_start[tree], forest.tree_start[tree + 1])
        open_rows = [rows[0]]
        while open_rows:
            row = min(open_rows, key=lambda row: key[row])
            open_rows.remove(row)
            open_rows += [below for below in rows if forest.parent_row[below] == row]
            order.append(row)
    new = np.array(order)
    number = np.argsort(new)
    parent = np.where(forest.parent[new] < 0, -1, forest.node[number[forest.parent_row[new]]])
    lengths = forest.lengths[new]
    spans = [np.arange(forest.offsets[row], forest.offsets[row + 1]) for row in new]
    token = np.concatenate(spans)
    return replace(
        forest,
        parent=parent,
        depth=forest.depth[new],
        start=forest.start[new],
        finish=forest.finish[new],
        tokens=forest.tokens[token],
        logprobs=forest.logprobs[token],
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )


def numbered(forest: Forest) -> Forest:
    """Each token's id is its index, so that a packed row says which token lies where."""
    return replace(forest, tokens=np.arange(len(forest.tokens), dtype=np.int32))


@given(forests(max_segments=12), st.integers(0, 99))
@settings(max_examples=60)
def test_the_end_of_a_subtree_says_who_sees_whom(forest: Forest, seed: int) -> None:
    """Also where the nodes of a forest are not numbered depth first."""
    forest = numbered(renumbered(forest, seed))
    packed = pack(forest, range(forest.trees))
    token, end, place = packed.tokens.numpy(), packed.end.numpy(), np.arange(len(packed.end))
    seen = (place <= place[:, None]) & (place[:, None] < end)
    np.testing.assert_array_equal(seen, ancestors(forest)[np.ix_(token, token)])
    assert packed.target.tolist() == packed.target_token.tolist()
    # What comes before a target is the last token that it sees besides itself.
    for target, predictor in zip(packed.target, packed.predictor, strict=True):
        before = ancestors(forest)[target] & (np.arange(len(token)) != int(target))
        positions = np.repeat(forest.start - forest.offsets[:-1], forest.lengths) + np.arange(
            len(token)
        )
        expected = np.flatnonzero(before)[positions[before].argmax()]
        assert token[packed.predictors[predictor]] == expected


@given(forests(max_segments=12), st.integers(1, 12))
@settings(max_examples=60)
def test_blocks_hold_every_pair_that_may_see_each_other_once(forest: Forest, size: int) -> None:
    forest = numbered(forest)
    end = pack(forest, range(forest.trees)).end.numpy()
    seen = np.zeros((len(end), len(end)), dtype=int)
    for block in blocks(end, size):
        for queries, keys, visible in zip(block.queries, block.keys, block.visible, strict=True):
            assert visible.any(1).all()  # a softmax over nothing is not a number
            real = queries >= 0
            np.add.at(seen, np.ix_(queries[real], keys), visible[real])
    np.testing.assert_array_equal(seen, ancestors(forest))


def dense(packed_end: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention [N, H, E] over the whole row at once, keys repeated for their groups."""
    place = torch.arange(len(packed_end))
    mask = (place <= place[:, None]) & (place[:, None] < packed_end)
    groups = query.shape[1] // key.shape[1]
    rows = [query, *(part.repeat_interleave(groups, dim=1) for part in (key, value))]
    flat = [part.transpose(0, 1) for part in rows]
    return scaled_dot_product_attention(*flat, attn_mask=mask, scale=0.3).transpose(0, 1)


def projections(count: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = [(count, 4, 8), (count, 2, 8), (count, 2, 8)]
    return [torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes]


@given(forests(max_segments=12))
@settings(max_examples=20)
def test_attention_by_blocks_is_the_dense_one(forest: Forest) -> None:
    end = pack(forest, range(forest.trees)).end
    leaves = [part.requires_grad_() for part in projections(len(end))]
    expected = dense(end, *leaves)
    context = packed_context(end, 99, groups=2, dtype=torch.float64)
    got = context.attend(0, *leaves, scale=0.3)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    found = torch.autograd.grad(got.square().sum(), leaves)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_flex_attention_takes_the_same_mask() -> None:
    """Its forward pass; its backward pass exists on CUDA only."""
    end = pack(sample_forest(), range(3)).end
    inputs = [part.float() for part in projections(len(end))]
    got = FlexContext(flex_mask(end), 99, compiled=False).attend(0, *inputs, scale=0.3)
    torch.testing.assert_close(got, dense(end, *inputs))


def plain_logprobs(
    hidden: Tensor, weight: Tensor, predictor: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """All logits at once, through autograd."""
    every = torch.log_softmax(hidden @ weight.T, dim=-1)
    return every[predictor, target], -(every.exp() * every).sum(-1)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("parts", ["logprobs", "entropy", "both"])
def test_chunks_change_neither_values_nor_gradients(chunk: int, parts: str) -> None:
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=random, dtype=torch.float64).requires_grad_()
    weight = torch.randn(13, 5, generator=random, dtype=torch.float64).requires_grad_()
    # Forks: a predictor of several targets, also of the same one twice, in no order.
    predictor = torch.tensor([6, 0, 0, 2, 1, 2, 3, 5, 4, 5, 5])
    target = torch.tensor([12, 3, 3, 0, 7, 1, 2, 2, 9, 4, 12])
    weights = torch.randn(2, 11, generator=random, dtype=torch.float64)

    def outcome(logprobs: Tensor, entropy: Tensor) -> tuple[Tensor, ...]:
        loss = torch.zeros((), dtype=torch.float64)
        if parts != "entropy":
            loss = loss + (logprobs.exp() * weights[0]).sum()
        if parts != "logprobs":
            loss = loss + (entropy[predictor] * weights[1]).sum()
        return logprobs, entropy, *torch.autograd.grad(loss, (hidden, weight))

    expected = outcome(*plain_logprobs(hidden, weight, predictor, target))
    got = outcome(*chunked_logprobs(hidden, weight, predictor, target, chunk))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    hidden, weight = torch.tensor([[1000.0]]), torch.tensor([[1.0], [0.5], [-1.0]])
    index = torch.tensor([0])
    logprobs, entropy = chunked_logprobs(hidden, weight, index, torch.tensor([1]))
    assert logprobs.tolist() == [-500.0]
    assert entropy.tolist() == [0.0]


def test_logprobs_in_bfloat16_are_close_and_their_gradients_are_in_float32() -> None:
    model = initial_policy(SIZE, seed=0).model
    forest = sample_forest()
    packed = pack(forest, range(forest.trees))
    exact, _ = target_logprobs(model, packed, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = target_logprobs(model, packed, 1.0)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).detach().abs().max()) < 0.05
    rough.sum().backward()
    assert all(value.grad.dtype == torch.float32 for value in model.parameters())


def test_gradient_checkpointing_changes_no_gradient() -> None:
    forest = sample_forest()
    packed = pack(forest, range(forest.trees))
    gradients = []
    for checkpointing in (False, True):
        model = initial_policy(SIZE, seed=0).model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        target_logprobs(model, packed, 1.0)[0].sum().backward()
        gradients.append([value.grad for value in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def sample_forest() -> Forest:
    """Three trees of two forks each, of different lengths."""
    grown: list[Tree] = []
    for index in range(3):
        tree = Tree(f"p{index}", [1, 2, 3 + index], seed=0)
        for branch in range(2):
            inner = tree.grow(tree.root, Segment([4 + branch, 6], [-1.0] * 2), branch)
            for leaf in range(2):
                length = 1 + leaf + index
                tree.grow(inner, Segment([5 + leaf] * length, [-1.0] * length), leaf).finish = "eos"
        grown.append(tree)
    return Forest.from_trees(grown)


def test_a_model_that_changes_its_logits_after_the_head_is_refused() -> None:
    model = initial_policy(SIZE, seed=0).model
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(UserError, match=r"model\.source: .*final_logit_softcapping"):
        target_logprobs(model, pack(sample_forest(), [0]), 1.0)


def test_logprobs_lie_where_their_tokens_lie() -> None:
    model, forest = initial_policy(SIZE, seed=0).model, sample_forest()
    longest = int(np.bincount(forest.tree, forest.lengths).max())
    found = forest_logprobs(model, forest, [2, 0], temperature=0.7, budget=longest)
    row = np.repeat(np.arange(len(forest)), forest.lengths)
    wanted = (forest.parent[row] >= 0) & np.isin(forest.tree[row], [0, 2])
    assert found.dtype == np.float32
    assert ((found < 0) == wanted).all()
    packed = pack(forest, range(3))
    direct = np.zeros(len(forest.tokens), dtype=np.float32)
    direct[packed.target_token] = target_logprobs(model, packed, 0.7)[0].detach().numpy()
    np.testing.assert_allclose(found[wanted], direct[wanted], rtol=0, atol=1e-6)


def test_too_little_memory_names_the_parameters() -> None:
    trainer: Any = Trainer(tiny(), UpdateParams(mismatch_limit=None))
    trainer._policy = lambda *_: torch.empty(1 << 55)
    with pytest.raises(WorkError, match=r"out of memory; lower update\.micro_batch_tokens"):
        trainer.update(sampled(tiny()), seed=0)


@given(forests(max_trees=5), st.integers(1, 60))
@settings(max_examples=60)
def test_a_tree_opens_a_row_only_where_no_row_had_room(forest: Forest, budget: int) -> None:
    sizes = tree_tokens(forest)
    room: list[int] = []
    for part in micro_batches(forest, range(forest.trees), budget):
        assert all(sizes[part[0]] > free for free in room)
        room.append(budget - sizes[part].sum())
        assert room[-1] >= 0 or len(part) == 1
