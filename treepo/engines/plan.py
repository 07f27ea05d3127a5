"""What a tree must be fed at a segment boundary, and where its tokens lie from then on.

Pure arithmetic on the tree's living nodes: knows no model and no tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from treepo.engines.kv import Slots
from treepo.sampling import Request
from treepo.tree import Node

Array = np.ndarray


@dataclass(frozen=True)
class Cached:
    """Where the tokens of a segment lie in the pool, from trajectory position `start` on."""

    start: int
    slots: Array


Cache = dict[int, Cached]  # by node key


def cached_slots(node: Node, cache: Cache) -> Array:
    """Slots of the node's first tokens, as many as are cached.

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
    return record.slots[node.start - record.start : node.end - record.start]


@dataclass(frozen=True)
class Layout:
    """The living nodes of a tree and who sees them: parents before children.

    ends: for each request the index of its node; ancestors: bool [nodes, nodes], row sees column;
    room: for each request the slots that its segment may come to take (the token drawn last is
    not fed).
    """

    nodes: list[Node]
    ends: Array
    ancestors: Array
    room: Array

    @property
    def slots(self) -> int:
        """How many the tree holds until its next boundary."""
        return sum(len(node.tokens) for node in self.nodes) + int(self.room.sum())


def lay_out(requests: Sequence[Request]) -> Layout:
    """The nodes above what the requests sample."""
    nodes = list(dict.fromkeys(node for request in requests for node in request.node.path()))
    index = {node: at for at, node in enumerate(nodes)}
    ancestors = np.eye(len(nodes), dtype=bool)
    for at, node in enumerate(nodes):
        if node.parent:
            ancestors[at] |= ancestors[index[node.parent]]
    ends = np.array([index[request.node] for request in requests])
    room = np.array([request.max_tokens - 1 for request in requests])
    return Layout(nodes, ends, ancestors, room)


@dataclass(frozen=True)
class Plan:
    """What to do before a tree's columns can go on.

    slots: all that the tree holds, those of its n living tokens first, then room for what is
    sampled, in the order of the steps: what comes after the latest need not be read. fed: which of
    the n are fed now; tokens, positions: what they are; paths: of each, a path that it lies on.
    last: for each request the index into `fed` of its path's last token. places: int64 [P, L], for
    each path where in `slots` its tokens lie, then those that it may come to sample; filled up with
    0. cache: of the living nodes.
    """

    slots: Array
    living: int
    fed: Array
    tokens: Array
    positions: Array
    paths: Array
    last: Array
    places: Array
    cache: Cache

    @property
    def path_slots(self) -> Array:
        """Slots of each path, [P, L]; a token at position k of it sees the first k + 1."""
        return self.slots[self.places]

    def sees(self) -> Array:
        """Which living tokens each fed one sees: bool [fed, n]."""
        seen = np.zeros((len(self.fed), self.living), dtype=bool)
        row, position = np.nonzero(np.arange(self.places.shape[1]) <= self.positions[:, None])
        seen[row, self.places[self.paths[row], position]] = True
        return seen


def plan(layout: Layout, cache: Cache, held: Array, pool: Slots) -> Plan:
    """The plan of a tree that held the slots `held`: keeps what lives, gives back, takes."""
    nodes = layout.nodes
    old = [cached_slots(node, cache) for node in nodes]
    have = np.array([len(part) for part in old])
    lengths = np.array([len(node.tokens) for node in nodes])
    starts = np.cumsum(lengths) - lengths
    node_of = np.repeat(np.arange(len(nodes)), lengths)
    within = np.arange(len(node_of)) - starts[node_of]
    cached = within < have[node_of]
    kept = np.concatenate(old)
    pool.give_back(np.setdiff1d(held, kept, assume_unique=True))
    taken = np.ones(layout.slots, dtype=bool)
    taken[: len(cached)] = ~cached
    slots = np.empty(layout.slots, dtype=np.int64)
    slots[~taken] = kept
    slots[taken] = pool.take(int(taken.sum()))
    by_step = _by_step(layout.room)
    slots[len(cached) :] = slots[len(cached) :][by_step]
    # A path's last token is fed even where it is cached: its logits are wanted.
    ends = (starts + lengths - 1)[layout.ends]
    wanted = ~cached
    wanted[ends] = True
    fed = np.flatnonzero(wanted)
    return Plan(
        slots=slots,
        living=len(cached),
        fed=fed,
        tokens=np.concatenate([node.tokens for node in nodes])[fed],
        positions=np.array([node.start for node in nodes])[node_of[fed]] + within[fed],
        paths=layout.ancestors[layout.ends].argmax(0)[node_of[fed]],
        last=np.searchsorted(fed, ends),
        places=_places(layout, node_of, by_step),
        cache={
            node.key: Cached(node.start, slots[start : start + length])
            for node, start, length in zip(nodes, starts, lengths, strict=True)
        },
    )


def _by_step(room: Array) -> Array:
    """The order of the steps, for the paths' room one after another."""
    return np.argsort(np.concatenate([np.arange(count) for count in room]), kind="stable")


def _places(layout: Layout, node_of: Array, by_step: Array) -> Array:
    """`Plan.places`: of each path its living tokens, as parents come before children, then room."""
    living = layout.ancestors[layout.ends][:, node_of]
    rooms = np.split(len(node_of) + np.argsort(by_step), np.cumsum(layout.room)[:-1])
    lengths = living.sum(1) + layout.room
    places = np.zeros((len(lengths), int(lengths.max())), dtype=np.int64)
    for row, sees, room in zip(places, living, rooms, strict=True):
        path = np.append(np.flatnonzero(sees), room)
        row[: len(path)] = path
    return places
