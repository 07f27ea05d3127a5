"""Attention of decoding columns: the compiled kernel and torch against plain softmax."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from treepo.engines import kernel
from treepo.engines.decode import ColumnAttention, Part, Parts, Seat
from treepo.engines.kv import Block, KVPool

# What is called g++ elsewhere need not be GCC.
COMPILER = sys.platform == "linux" and shutil.which("g++") is not None
needs_kernel = pytest.mark.skipif(
    not COMPILER and kernel.library() is None, reason="there was no compiler for the kernel"
)


@dataclass(frozen=True)
class Case:
    """A pool of one layer, columns in it, and what they ask."""

    pool: KVPool
    live: np.ndarray
    query: Tensor

    @property
    def store(self) -> Tensor:
        return self.pool.layers[0]

    def parts(self) -> Parts:
        """All columns as one part, over every slot."""
        pool, at = self.pool, {name: torch.from_numpy(self.live[name].copy()) for name in FIELDS}
        trunk, bundle = (
            Seat(slice(0, block.count), block.count, block.lanes, block.slots, at[where], at[lane])
            for block, where, lane in (
                (pool.trunks, "row", "path"),
                (pool.bundles, "bundle", "lane"),
            )
        )
        return Parts(pool, [Part(slice(0, len(self.live)), trunk, bundle)])

    def asked(self, attention: ColumnAttention, scale: float = 0.3) -> Tensor:
        out = torch.full_like(self.query, torch.nan)
        attention.attend(self.store, self.query, out, scale)
        return out

    def compiled(self) -> Tensor:
        assert kernel.fits(self.pool)
        return self.asked(kernel.visible_slots(self.pool, self.live))

    def expected(self, scale: float = 0.3) -> Tensor:
        """Softmax over the slots of each column, one by one, in float64."""
        pool, rows = self.pool, []
        views = [view.double() for view in pool.views(self.store)]
        for column, query in zip(self.live, self.query.double(), strict=True):
            seen = [
                view[:, column[where], block.mask[column[where], 0, column[lane] * G(pool)] == 0]
                for view, block, where, lane in (
                    (views[0], pool.trunks, "row", "path"),
                    (views[1], pool.bundles, "bundle", "lane"),
                )
            ]
            keys, values = torch.cat(seen, 1).repeat_interleave(G(pool), dim=2)
            weights = (torch.einsum("he,she->hs", query, keys) * scale).softmax(-1)
            rows.append(torch.einsum("hs,she->he", weights, values))
        return torch.stack(rows).to(self.query.dtype)


FIELDS = ("row", "path", "bundle", "lane")


def G(pool: KVPool) -> int:
    return pool.trunks.groups


def case(
    seed: int,
    trees: int = 2,
    paths: int = 5,
    slots: tuple[int, int] = (70, 40),
    heads: int = 2,
    groups: int = 3,
    width: int = 32,
    spread: float = 1.0,
) -> Case:
    """Trees of `paths` columns in bundles of up to four, each with visible slots at random."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    live = np.zeros(trees * paths, dtype=[(name, np.int64) for name in FIELDS])
    live["row"], live["path"] = np.divmod(np.arange(len(live)), paths)
    bundles_a_tree = -(-paths // 4)
    live["bundle"] = live["row"] * bundles_a_tree + live["path"] // 4
    live["lane"] = live["path"] % 4
    masks = []
    for count, lanes, size in ((trees, paths, slots[0]), (trees * bundles_a_tree, 4, slots[1])):
        seen = rng.random((count, 1, lanes, size)) < rng.random()
        seen[..., 0] = True  # every column sees the prompt
        mask = torch.from_numpy(np.where(seen, 0.0, -np.inf)).float()
        masks.append(Block(mask.repeat_interleave(groups, dim=2), lanes, groups))
    size = sum(block.count * block.slots for block in masks)
    store = torch.randn(2, size, heads, width, generator=generator)
    query = torch.randn(len(live), heads * groups, width, generator=generator) * spread
    return Case(KVPool([store], *masks), live, query)


def test_the_kernel_is_there_where_a_compiler_is() -> None:
    assert kernel.library() is not None or not COMPILER


@needs_kernel
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**20),
    paths=st.integers(1, 9),
    slots=st.tuples(st.integers(1, 200), st.integers(1, 90)),
    heads=st.integers(1, 4),
    groups=st.integers(1, 9),
    width=st.sampled_from([16, 32, 48, 64, 80, 128]),
    spread=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_kernel_and_torch_are_plain_softmax(
    seed: int,
    paths: int,
    slots: tuple[int, int],
    heads: int,
    groups: int,
    width: int,
    spread: float,
) -> None:
    of = case(seed, 2, paths, slots, heads, groups, width, spread)
    near = {"rtol": 1e-4, "atol": 2e-5 * max(1.0, spread)}
    torch.testing.assert_close(of.compiled(), of.expected(), **near)
    torch.testing.assert_close(of.asked(of.parts()), of.expected(), **near)


@needs_kernel
def test_a_column_is_the_same_bits_whatever_else_is_asked() -> None:
    of = case(3, trees=3, paths=9)
    together = of.compiled()
    threads = torch.get_num_threads()
    for chosen in ([0], [7, 20], list(range(5, 27))):
        torch.set_num_threads(1 + len(chosen) % 2)
        alone = Case(of.pool, of.live[chosen], of.query[chosen])
        assert torch.equal(alone.compiled(), together[chosen])
    torch.set_num_threads(threads)


@needs_kernel
def test_no_columns() -> None:
    of = case(0)
    nobody = Case(of.pool, of.live[:0], of.query[:0])
    assert nobody.compiled().shape == (0, *of.query.shape[1:])


@needs_kernel
@pytest.mark.parametrize("part", [0, 1], ids=["a key", "a value"])
def test_a_number_that_is_none_shows(part: int) -> None:
    of = case(1)
    of.store[part, 0] = torch.nan  # the first slot of the first tree's trunk
    first = torch.from_numpy(of.live["row"] == 0)
    out = of.compiled()
    assert out[first].isnan().any(-1).all()
    assert not out[~first].isnan().any()


@needs_kernel
@pytest.mark.parametrize(("changes", "dtype"), [({"width": 20}, "float32"), ({}, "bfloat16")])
def test_what_the_kernel_leaves_to_torch(changes: dict[str, int], dtype: str) -> None:
    of = case(0, **changes)
    of.pool.layers[0] = of.store.to(getattr(torch, dtype))
    assert not kernel.fits(of.pool)
