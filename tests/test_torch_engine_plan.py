"""Where a tree's tokens lie at a boundary, against what each path must see."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from treepo.engines.columns import Columns, Opening
from treepo.engines.kv import Slots
from treepo.engines.plan import Cache, Plan, cached_slots, lay_out, plan
from treepo.sampling import Request
from treepo.tree import Node, Segment, Tree

NOTHING = np.zeros(0, dtype=np.int64)


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
    return [Request(rng.choice(nodes), rng.randint(1, 4), index) for index in range(count)]


def tokens_of(node: Node) -> list[int]:
    return [token for part in node.path() for token in part.tokens]


def make(
    requests: list[Request], cache: Cache, held: np.ndarray = NOTHING, pool: Slots | None = None
) -> Plan:
    return plan(lay_out(requests), cache, held, pool or Slots(10_000))


def living(new: Plan) -> list[int]:
    return new.slots[: new.living].tolist()


@given(seed=st.integers(0, 10_000), nodes=st.integers(0, 30), count=st.integers(1, 20))
def test_every_path_is_the_list_of_its_slots(seed: int, nodes: int, count: int) -> None:
    requests = asked(random_tree(seed, nodes), seed, count)
    layout, pool = lay_out(requests), Slots(10_000)
    pool.take(seed % 7)  # of another tree
    first = make(requests, {}, pool=pool)
    for again in range(2):
        new = first if not again else make(requests, first.cache, first.slots, pool)
        text = [token for node in layout.nodes for token in node.tokens]
        assert len(np.unique(new.slots)) == len(new.slots) == layout.slots
        assert pool.lent == layout.slots + seed % 7
        held = dict(zip(living(new), text, strict=True))
        rooms: list[int] = []
        steps: list[tuple[int, int]] = []
        for at, request in enumerate(requests):
            path = new.slots[new.places[at]].tolist()
            end = request.node.end
            assert [held[slot] for slot in path[:end]] == tokens_of(request.node)
            rooms += path[end : end + request.max_tokens - 1]
            steps += enumerate(new.places[at, end : end + request.max_tokens - 1].tolist())
            assert text[new.fed[new.last[at]]] == tokens_of(request.node)[-1]
        taken = [place for _, place in sorted(steps)]
        assert taken == list(range(new.living, len(new.slots)))  # what is sampled first comes first
        assert sorted(rooms + living(new)) == sorted(new.slots.tolist())
        assert new.tokens.tolist() == [text[at] for at in new.fed]
        if again:  # everything lies where it should: only the last tokens are fed
            assert living(new) == living(first)
            assert len(new.fed) == len({request.node for request in requests})
        else:
            assert len(new.fed) == len(text)


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
    sees = new.sees()
    for row, at in enumerate(new.fed):
        upto = tokens_of(owners[at])[: position[at] + 1]
        assert sorted(text[sees[row]].tolist()) == sorted(upto)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 8))
def test_what_no_path_sees_is_given_back(seed: int, count: int) -> None:
    tree, pool = random_tree(seed, 12), Slots(10_000)
    before = make(asked(tree, seed, 12), {}, pool=pool)
    layout = lay_out(asked(tree, seed + 1, count))
    after = plan(layout, before.cache, before.slots, pool)
    assert pool.lent == len(after.slots) == layout.slots
    lie = dict(
        zip(layout.nodes, np.split(after.slots[: after.living], _ends(layout.nodes)), strict=True)
    )
    for node, slots in lie.items():
        if node.key in before.cache:  # nothing is moved
            assert slots.tolist() == before.cache[node.key].slots.tolist()


def _ends(nodes: list[Node]) -> list[int]:
    return np.cumsum([len(node.tokens) for node in nodes])[:-1].tolist()


def test_the_parts_of_a_split_segment_share_its_record() -> None:
    tree = random_tree(0, 0)
    node = tree.grow(tree.root, Segment([10, 11, 12, 13], [0.0] * 4), 9)
    cache = make([Request(node, 4, 1)], {}).cache
    whole = cached_slots(node, cache)
    upper = tree.split(node, 1)
    assert cached_slots(upper, cache).tolist() == whole[:1].tolist()
    assert cached_slots(node, cache).tolist() == whole[1:].tolist()
    assert len(cached_slots(upper, {})) == 0


def test_pending_tokens_take_the_next_slots_of_their_paths() -> None:
    columns, slots = Columns(), np.array([[0, 1, 2, 3, 4], [0, 1, 9, 8, 7]])
    columns.open(Opening(0, [1, 2], [3, 3], [3, 2], slots))
    for expected in ([3, 9], [4, 8]):
        columns.append(np.array([7, 8]), np.zeros(2, np.float32), np.zeros(2, bool))
        assert columns.pending().tolist() == expected
    columns.append(np.array([7, 8]), np.zeros(2, np.float32), np.zeros(2, bool))
    assert len(columns) == 0
    first, second = columns.close(0, [3, 2])
    assert first.tokens == [7, 7, 7]
    assert (first.slots.tolist(), second.slots.tolist()) == ([3, 4], [9, 8])


@given(orders=st.lists(st.integers(0, 9), max_size=40), seed=st.integers(0, 1000))
def test_a_slot_has_one_holder(orders: list[int], seed: int) -> None:
    rng, pool, out = random.Random(seed), Slots(400), []
    most = 0
    for count in orders:
        if out and rng.random() < 0.4:
            pool.give_back(out.pop(rng.randrange(len(out))))
        out.append(pool.take(count))
        taken = np.concatenate(out)
        most = max(most, len(taken))
        assert len(np.unique(taken)) == len(taken) == pool.lent
    assert pool.peak == most
    assert max((slots.max() for slots in out if len(slots)), default=-1) < max(most, 1)
