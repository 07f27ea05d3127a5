"""Attention of decoding columns: the compiled kernel and torch against plain softmax."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from treepo.attention import grouped_mask
from treepo.engines import kernel
from treepo.engines.decode import RowAttention, TreeRows
from treepo.engines.kv import KVPool

# What is called g++ elsewhere need not be GCC.
COMPILER = sys.platform == "linux" and shutil.which("g++") is not None
needs_kernel = pytest.mark.skipif(
    not COMPILER and kernel.library() is None, reason="there was no compiler for the kernel"
)


@dataclass(frozen=True)
class Case:
    """A pool of one layer, columns in it, and what they ask.

    row, path: of each column; slots: [T, P, L] of each path, of which it sees the first lengths[c].
    """

    pool: KVPool
    row: np.ndarray
    path: np.ndarray
    slots: np.ndarray
    lengths: np.ndarray
    query: Tensor

    @property
    def store(self) -> Tensor:
        return self.pool.layers[0]

    def chosen(self, columns: list[int] | slice) -> Case:
        parts = (self.row, self.path, self.lengths, self.query)
        row, path, lengths, query = (part[columns] for part in parts)
        return Case(self.pool, row, path, self.slots, lengths, query)

    def rows(self) -> TreeRows:
        """Each tree over all slots of the pool."""
        trees, paths, _ = self.slots.shape
        visible = torch.zeros(trees, paths, self.store.shape[1], dtype=torch.bool)
        for row, path, length in zip(self.row, self.path, self.lengths, strict=True):
            visible[row, path, self.slots[row, path, :length]] = True
        everything = torch.arange(self.store.shape[1]).repeat(trees, 1)
        mask = grouped_mask(visible, self.pool.groups, self.store.dtype)
        at = (torch.from_numpy(part) for part in (self.row, self.path))
        return TreeRows(slice(0, len(self.row)), *at, everything, mask)

    def asked(self, attention: RowAttention, scale: float = 0.3) -> Tensor:
        out = torch.full_like(self.query, torch.nan)
        attention.attend(self.store, self.query, out, scale)
        return out

    def compiled(self) -> Tensor:
        assert kernel.fits(self.pool)
        slots = self.slots.reshape(-1, self.slots.shape[2])
        paths = self.row * self.slots.shape[1] + self.path
        return self.asked(kernel.VisibleSlots(0, slots, paths, self.lengths))

    def expected(self, scale: float = 0.3) -> Tensor:
        """Softmax over the slots of each column, one by one, in float64."""
        rows: list[Tensor] = []
        for at, query in enumerate(self.query.double()):
            seen = self.slots[self.row[at], self.path[at], : self.lengths[at]]
            keys, values = self.store[:, seen].double().repeat_interleave(self.pool.groups, dim=2)
            weights = (torch.einsum("he,she->hs", query, keys) * scale).softmax(-1)
            rows.append(torch.einsum("hs,she->he", weights, values))
        return torch.stack(rows).to(self.query.dtype)


def case(
    seed: int,
    trees: int = 2,
    paths: int = 5,
    slots: int = 110,
    heads: int = 2,
    groups: int = 3,
    width: int = 32,
    spread: float = 1.0,
) -> Case:
    """Paths over slots at random; the first of them is the same for all of a tree."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    row, path = np.divmod(np.arange(trees * paths), paths)
    config = transformers.LlamaConfig(
        hidden_size=heads * groups * width,
        num_hidden_layers=1,
        num_attention_heads=heads * groups,
        num_key_value_heads=heads,
    )
    pool = KVPool(config, torch.zeros(1), trees + slots)
    pool.layers[0] = torch.randn(2, trees + slots, heads, width, generator=generator)
    table = np.array([trees + rng.permutation(slots) for _ in row]).reshape(trees, paths, slots)
    table = np.concatenate([np.tile(np.arange(trees)[:, None, None], (1, paths, 1)), table], 2)
    lengths = rng.integers(1, slots + 2, len(row))
    query = torch.randn(len(row), heads * groups, width, generator=generator) * spread
    return Case(pool, row, path, table, lengths, query)


def test_the_kernel_is_there_where_a_compiler_is() -> None:
    assert kernel.library() is not None or not COMPILER


@needs_kernel
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**20),
    paths=st.integers(1, 9),
    slots=st.integers(1, 290),
    heads=st.integers(1, 4),
    groups=st.integers(1, 9),
    width=st.sampled_from([16, 32, 48, 64, 80, 128]),
    spread=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_kernel_and_torch_are_plain_softmax(
    seed: int,
    paths: int,
    slots: int,
    heads: int,
    groups: int,
    width: int,
    spread: float,
) -> None:
    of = case(seed, 2, paths, slots, heads, groups, width, spread)
    near = {"rtol": 1e-4, "atol": 2e-5 * max(1.0, spread)}
    torch.testing.assert_close(of.compiled(), of.expected(), **near)
    torch.testing.assert_close(of.asked(of.rows()), of.expected(), **near)


@needs_kernel
def test_a_column_is_the_same_bits_whatever_else_is_asked() -> None:
    of = case(3, trees=3, paths=9)
    together = of.compiled()
    threads = torch.get_num_threads()
    for chosen in ([0], [7, 20], list(range(5, 27))):
        torch.set_num_threads(1 + len(chosen) % 2)
        assert torch.equal(of.chosen(chosen).compiled(), together[chosen])
    torch.set_num_threads(threads)


@needs_kernel
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), shared=st.lists(st.integers(0, 200), min_size=1, max_size=6))
def test_what_siblings_share_is_read_once_and_changes_no_bit(seed: int, shared: list[int]) -> None:
    """More columns than threads have at a time; paths fork anywhere, in a block or between two."""
    of = case(seed, trees=len(shared), paths=24, slots=200)
    for tree, count in enumerate(shared):
        of.slots[tree, ::2, :count] = of.slots[tree, 0, :count]
        of.slots[tree, 1::2, : count // 2] = of.slots[tree, 0, : count // 2]
    together = of.compiled()
    alone = [of.chosen([column]).compiled() for column in range(0, len(together), 5)]
    assert torch.equal(torch.cat(alone), together[::5])
    torch.testing.assert_close(together, of.expected(), rtol=1e-4, atol=2e-5)


@needs_kernel
def test_no_columns() -> None:
    of = case(0)
    assert of.chosen(slice(0)).compiled().shape == (0, *of.query.shape[1:])


@needs_kernel
@pytest.mark.parametrize("part", [0, 1], ids=["a key", "a value"])
def test_a_number_that_is_none_shows(part: int) -> None:
    of = case(1)
    of.store[part, 0] = torch.nan  # what all columns of the first tree see
    first = torch.from_numpy(of.row == 0)
    out = of.compiled()
    assert out[first].isnan().any(-1).all()
    assert not out[~first].isnan().any()


@needs_kernel
@pytest.mark.parametrize(("changes", "dtype"), [({"width": 20}, "float32"), ({}, "bfloat16")])
def test_what_the_kernel_leaves_to_torch(changes: dict[str, int], dtype: str) -> None:
    of = case(0, **changes)
    of.pool.layers[0] = of.store.to(getattr(torch, dtype))
    assert not kernel.fits(of.pool)
