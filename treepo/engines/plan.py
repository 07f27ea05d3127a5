"""What a tree must be fed at a segment boundary, and where its tokens lie from then on.

Pure arithmetic on the tree's living nodes: knows no model and no tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from treepo.engines.kv import BUNDLE, bundle_address, trunk_address
from treepo.sampling import Request
from treepo.tree import Node

Array = np.ndarray
_TRUNK = -1


@dataclass(frozen=True)
class Cached:
    """Where the tokens of a segment lie in the pool, from trajectory position `start` on."""

    start: int
    addresses: Array


Cache = dict[int, Cached]  # by node key
View = tuple[Array, Array, Array]


def cached_tokens(node: Node, cache: Cache) -> Array:
    """Addresses of the node's first tokens, as many as are cached.

    The upper part of a split segment has no record of its own: the lower part, its first child,
    holds that of the whole.
    """
    holder = node
    while holder.key not in cache:
        if not holder.children:
            return np.zeros(0, dtype=np.int64)
        holder = holder.children[0]
    record = cache[holder.key]
    if record.start > node.start:
        return np.zeros(0, dtype=np.int64)
    return record.addresses[node.start - record.start : node.end - record.start]


@dataclass(frozen=True)
class Layout:
    """The living nodes of a tree and who sees them: parents before children.

    ends: for each request the index of its node; ancestors: bool [nodes, nodes], row sees column;
    bundle: for each request its bundle; owner: for each node the bundle whose columns alone see
    it, or -1 for the trunk; bundles: how many there are.
    """

    nodes: list[Node]
    ends: Array
    ancestors: Array
    bundle: Array
    owner: Array
    bundles: int


def lay_out(requests: Sequence[Request]) -> Layout:
    """Group the requests' paths into bundles of up to R neighbours."""
    nodes = list(dict.fromkeys(node for request in requests for node in request.node.path()))
    index = {node: at for at, node in enumerate(nodes)}
    parents = [index[node.parent] if node.parent else _TRUNK for node in nodes]
    ends = np.array([index[request.node] for request in requests])
    ancestors = np.eye(len(nodes), dtype=bool)
    for at, parent in enumerate(parents[1:], 1):
        ancestors[at] |= ancestors[parent]
    parts: list[list[list[int]]] = [[] for _ in nodes]
    for request, end in enumerate(ends.tolist()):
        parts[end].append([request])
    for at in range(len(nodes) - 1, -1, -1):  # children before their parents
        parts[at] = list(_merged(parts[at]))
        if at:
            parts[parents[at]] += parts[at]
    bundle = np.zeros(len(requests), dtype=np.int64)
    for number, members in enumerate(parts[0]):
        bundle[members] = number
    seers = ancestors[ends]  # [requests, nodes]
    low = np.where(seers, bundle[:, None], len(requests)).min(axis=0)
    high = np.where(seers, bundle[:, None], -1).max(axis=0)
    owner = np.where(low == high, low, _TRUNK)
    owner[0] = _TRUNK  # every column sees the prompt there, so no column's view of it is empty
    return Layout(nodes, ends, ancestors, bundle, owner, len(parts[0]))


def _merged(parts: Iterable[list[int]]) -> Iterable[list[int]]:
    """Neighbouring groups joined while they fit into one bundle."""
    pending: list[int] = []
    for part in parts:
        if len(pending) + len(part) > BUNDLE:
            yield pending
            pending = []
        pending = pending + part
    if pending:
        yield pending


@dataclass(frozen=True)
class Plan:
    """What to do before a tree's columns can go on.

    source, target: slots to move. order: addresses of all tokens of the living nodes, n of them.
    fed: which of these are fed now, tokens and positions: what they are; sees: bool [fed, n].
    last: for each request the index into `fed` of its path's last token. numbers: of the bundles.
    bundle, lane: of each request. trunk_slots, bundle_slots: taken of the trunk and of each bundle.
    trunk_view, bundle_view: what the columns see, as lists of blocks, lanes and slots. cache: of
    the living nodes.
    """

    source: Array
    target: Array
    order: Array
    fed: Array
    tokens: Array
    positions: Array
    sees: Array
    last: Array
    numbers: list[int]
    bundle: Array
    lane: Array
    trunk_slots: int
    bundle_slots: Array
    trunk_view: View
    bundle_view: View
    cache: Cache


def plan(tree: int, layout: Layout, cache: Cache, numbers: list[int]) -> Plan:
    """The plan of one tree in row `tree`, whose bundles are to be `numbers` of the pool."""
    nodes = layout.nodes
    old = [cached_tokens(node, cache) for node in nodes]
    have = np.array([len(part) for part in old])
    lengths = np.array([len(node.tokens) for node in nodes])
    starts = np.cumsum(lengths) - lengths
    node_of = np.repeat(np.arange(len(nodes)), lengths)
    within = np.arange(len(node_of)) - starts[node_of]
    owner, slots = layout.owner[node_of], _slots(layout.owner[node_of])
    pool_bundle = np.append(numbers, 0)[owner]
    order = np.where(owner < 0, trunk_address(tree, slots), bundle_address(pool_bundle, slots))
    cached = within < have[node_of]
    # A path's last token is fed even where it is cached: its logits are wanted.
    wanted = np.zeros(len(order), dtype=bool)
    wanted[(starts + lengths - 1)[layout.ends]] = True
    fed = np.flatnonzero(~cached | wanted)
    lane = _slots(layout.bundle)
    column, token = np.nonzero(layout.ancestors[layout.ends][:, node_of])
    above = owner[token] < 0
    seat = np.array(numbers)[layout.bundle]
    return Plan(
        source=np.concatenate(old),
        target=order[cached],
        order=order,
        fed=fed,
        tokens=np.concatenate([node.tokens for node in nodes])[fed],
        positions=np.array([node.start for node in nodes])[node_of[fed]] + within[fed],
        sees=layout.ancestors[node_of[fed]][:, node_of] & (np.arange(len(order)) <= fed[:, None]),
        last=np.searchsorted(fed, (starts + lengths - 1)[layout.ends]),
        numbers=numbers,
        bundle=seat,
        lane=lane,
        trunk_slots=int((owner < 0).sum()),
        bundle_slots=np.bincount(owner[owner >= 0], minlength=layout.bundles),
        trunk_view=(np.full(above.sum(), tree), column[above], slots[token[above]]),
        bundle_view=(seat[column[~above]], lane[column[~above]], slots[token[~above]]),
        cache={
            node.key: Cached(node.start, order[start : start + length])
            for node, start, length in zip(nodes, starts, lengths, strict=True)
        },
    )


def _slots(owner: Array) -> Array:
    """Number the members of each owner from 0 in order of appearance."""
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], owner[order])
    slots = np.empty(len(owner), dtype=np.int64)
    slots[order] = np.arange(len(owner)) - first
    return slots
