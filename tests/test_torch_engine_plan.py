"""Where a tree's tokens lie at a boundary, against what each path must see."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from treepo.engines.columns import Columns, Opening
from treepo.engines.kv import BUNDLE, bundle_address, trunk_address
from treepo.engines.plan import Cache, Plan, cached_tokens, lay_out, plan
from treepo.sampling import Request
from treepo.tree import Node, Segment, Tree

ROW = 3


def random_tree(seed: int, nodes: int) -> Tree:
    """Any shape: segments of 1 to 5 tokens, each token another number."""
    rng = random.Random(seed)
    tree = Tree("p", list(range(rng.randint(1, 6))), seed=0)
    known, token = [tree.root], 100
    for key in range(nodes):
        length = rng.randint(1, 5)
        segment = Segment(list(range(token, token + length)), [0.0] * length)
        known.append(tree.grow(rng.choice(known[-6:]), segment, key + 1))
        token += length
    return tree


def asked(tree: Tree, seed: int, count: int) -> list[Request]:
    rng = random.Random(seed)
    nodes = list(tree.nodes())
    return [Request(rng.choice(nodes), 4, index) for index in range(count)]


def tokens_of(node: Node) -> list[int]:
    return [token for part in node.path() for token in part.tokens]


def make(requests: list[Request], cache: Cache) -> Plan:
    layout = lay_out(requests)
    return plan(ROW, layout, cache, [7 + 2 * at for at in range(layout.bundles)])


def seen(new: Plan, request: int, held: dict[int, int]) -> list[int]:
    """Tokens that a column sees, in no order."""
    trees, lanes, slots = new.trunk_view
    assert set(trees) <= {ROW}
    trunk = trunk_address(ROW, slots[lanes == request])
    bundles, lanes, slots = new.bundle_view
    mine = (bundles == new.bundle[request]) & (lanes == new.lane[request])
    own = bundle_address(new.bundle[request], slots[mine])
    return sorted(held[address] for address in [*trunk.tolist(), *own.tolist()])


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), nodes=st.integers(0, 30), count=st.integers(1, 20))
def test_every_column_sees_its_path(seed: int, nodes: int, count: int) -> None:
    tree = random_tree(seed, nodes)
    requests = asked(tree, seed, count)
    first, cache = make(requests, {}), {}
    for again in range(2):
        new = first if not again else make(requests, cache)
        texts = [node.tokens for node in lay_out(requests).nodes]
        text = [token for tokens in texts for token in tokens]
        assert len(np.unique(new.order)) == len(new.order) == len(text)
        held = dict(zip(new.order.tolist(), text, strict=True))
        for at, request in enumerate(requests):
            assert seen(new, at, held) == sorted(tokens_of(request.node))
            assert text[new.fed[new.last[at]]] == tokens_of(request.node)[-1]
        # Lanes are the columns' own, and bundles no larger than they may be.
        assert len(set(zip(new.bundle.tolist(), new.lane.tolist(), strict=True))) == count
        assert new.lane.max() < BUNDLE
        assert new.trunk_slots + new.bundle_slots.sum() == len(text)
        assert new.tokens.tolist() == [text[at] for at in new.fed]
        if again:  # everything lies where it should: only the last tokens are fed
            assert np.array_equal(new.source, new.target)
            assert len(new.fed) == len({request.node for request in requests})
        else:
            assert len(new.source) == 0
            assert len(new.fed) == len(text)
        cache = new.cache


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), nodes=st.integers(0, 20), count=st.integers(1, 16))
def test_fed_tokens_see_their_ancestors(seed: int, nodes: int, count: int) -> None:
    requests = asked(random_tree(seed, nodes), seed, count)
    layout, new = lay_out(requests), make(requests, {})
    position = np.concatenate(
        [np.arange(node.start, node.end) for node in layout.nodes] or [np.zeros(0)]
    )
    assert np.array_equal(new.positions, position[new.fed])
    text = np.concatenate([node.tokens for node in layout.nodes])
    owners = [node for node in layout.nodes for _ in node.tokens]
    for row, at in enumerate(new.fed):
        upto = tokens_of(owners[at])[: position[at] + 1]
        assert sorted(text[new.sees[row]].tolist()) == sorted(upto)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 20))
def test_neighbours_share_bundles(seed: int, count: int) -> None:
    """No two bundles side by side could be one, and the prompt is the trunk's."""
    layout = lay_out(asked(random_tree(seed, 12), seed, count))
    sizes = np.bincount(layout.bundle)
    assert sizes.max() <= BUNDLE
    assert all(sizes[at] + sizes[at + 1] > BUNDLE for at in range(len(sizes) - 1))
    assert layout.owner[0] == -1


def test_the_parts_of_a_split_segment_share_its_record() -> None:
    tree = random_tree(0, 0)
    node = tree.grow(tree.root, Segment([10, 11, 12, 13], [0.0] * 4), 9)
    cache = make([Request(node, 4, 1)], {}).cache
    whole = cached_tokens(node, cache)
    upper = tree.split(node, 1)
    assert cached_tokens(upper, cache).tolist() == whole[:1].tolist()
    assert cached_tokens(node, cache).tolist() == whole[1:].tolist()
    assert len(cached_tokens(upper, {})) == 0


def test_pending_tokens_take_the_next_slots_of_their_bundle() -> None:
    columns, used = Columns(), np.array([5, 0, 9])
    bundle, lane = np.array([2, 0, 2]), np.array([0, 0, 1])
    columns.open(Opening(0, [1, 2, 3], [3, 3, 3], [4, 4, 4], bundle, lane))
    columns.append(np.array([7, 8, 9]), np.zeros(3, np.float32), np.zeros(3, bool))
    expected = [bundle_address(0, np.array(5)), *bundle_address(2, np.array([9, 10]))]
    assert columns.take_slots(used).tolist() == [int(address) for address in expected]
    assert used.tolist() == [6, 0, 11]
