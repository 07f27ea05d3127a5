"""TorchEngine: one batch row a tree, one query column a living path (DESIGN section 5).

Each token's keys and values are held once; a path is a set of slots that it may see. Forking
adds a column and copies nothing; a finished path drops its column; a free row takes the next
prompt. Knows models and tokens, nothing of heuristics, text or rewards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedModel

from treepo.attention import grouped_mask
from treepo.engines.base import EngineStats
from treepo.engines.columns import Columns, Opening
from treepo.engines.draws import draw, uniforms
from treepo.engines.kv import DecodeContext, KVBuffer
from treepo.sampling import Grower, Request
from treepo.tree import Node, Segment, Tree


@dataclass(frozen=True)
class Cached:
    """Where the tokens of a segment lie in the buffer, from trajectory position `start` on."""

    start: int
    slots: list[int]


@dataclass
class Row:
    """A tree in the batch. `cached` is by node key; `used`: slots taken so far."""

    index: int
    grower: Grower
    requests: list[Request]
    cached: dict[int, Cached] = field(default_factory=dict[int, Cached])
    used: int = 0

    def slots(self, node: Node) -> list[int]:
        """Slots of the node's first tokens, as many as are cached.

        The upper part of a split segment has no record of its own: the lower part, its first
        child, holds that of the whole.
        """
        holder = node
        while holder.key not in self.cached:
            if not holder.children:
                return []
            holder = holder.children[0]
        record = self.cached[holder.key]
        if record.start > node.start:
            return []
        return record.slots[node.start - record.start : node.end - record.start]


@dataclass
class Fill:
    """Tokens of one tree that must be fed before its paths can go on, and who sees what.

    tokens, positions, slots: one entry a token; sees: the slots that each token sees;
    paths: for each request the slots of its whole path; last: for each request the index of its
    path's last token in `tokens`.
    """

    tokens: list[int] = field(default_factory=list[int])
    positions: list[int] = field(default_factory=list[int])
    slots: list[int] = field(default_factory=list[int])
    sees: list[list[int]] = field(default_factory=list[list[int]])
    paths: list[list[int]] = field(default_factory=list[list[int]])
    last: list[int] = field(default_factory=list[int])

    def opening(self, tree: int, row: Row) -> Opening:
        """The columns that sample once these tokens are fed."""
        return Opening(
            tree,
            seeds=[request.seed for request in row.requests],
            limits=[request.max_tokens for request in row.requests],
            positions=[request.node.end for request in row.requests],
            sees=self.paths,
            used=row.used,
        )


class TorchEngine:
    """Samples trees with a Hugging Face causal LM that was loaded with "tree" attention."""

    def __init__(
        self, model: PreTrainedModel, eos: Set[int], temperature: float, rows: int
    ) -> None:
        self._model = model.eval()
        self._eos = np.array(sorted(eos), dtype=np.int64)
        self._temperature = temperature
        self._rows: list[Row | None] = [None] * rows
        like = next(model.parameters())
        self._device = like.device
        self._dtype = like.dtype
        self._kv = KVBuffer(model.config, rows, like.detach())
        self._columns = Columns(rows)
        self._stats = EngineStats()

    def stats(self) -> EngineStats:
        """Counts since the engine was made."""
        return self._stats

    @torch.inference_mode()
    def run(self, growers: Iterable[Grower]) -> Iterator[tuple[int, Tree]]:
        """Yield (index of the grower, its finished tree), in the order of finishing."""
        queue = enumerate(growers)
        # Nothing of an earlier run, even one that was abandoned, may show in this one.
        self._rows = [None] * len(self._rows)
        self._columns = Columns(len(self._rows))
        waiting = self._admit(queue)
        while any(self._rows):
            self._step(waiting)
            waiting = []
            for number, row in enumerate(self._rows):
                if row is None or self._columns.busy(number):
                    continue
                try:
                    row.requests = row.grower.send(self._segments(number, row))
                    waiting.append(number)
                except StopIteration as stop:
                    self._rows[number] = None
                    yield row.index, stop.value
            waiting += self._admit(queue)

    def _admit(self, queue: Iterator[tuple[int, Grower]]) -> list[int]:
        """Give every free row the next prompt."""
        admitted: list[int] = []
        for number, row in enumerate(self._rows):
            if row is None and (entry := next(queue, None)) is not None:
                self._rows[number] = Row(entry[0], entry[1], next(entry[1]))
                admitted.append(number)
        return admitted

    def _step(self, waiting: list[int]) -> None:
        """One forward call: fills the waiting trees, decodes one token on all other columns."""
        columns = self._columns
        fills = {number: self._fill(number) for number in waiting}
        slots = [columns.take_slots(), *(fill.slots for fill in fills.values())]
        used = int(max([columns.used.max(), *(self._row(number).used for number in waiting)]))
        self._kv.reserve(used)
        columns.reserve_slots(self._kv.slots)
        columns.visible[columns.row, columns.path, slots[0]] = True
        counts = [len(fill.tokens) for fill in fills.values()]
        tree = np.concatenate([columns.row, np.repeat(np.array(waiting, dtype=np.int64), counts)])
        query = np.concatenate([columns.path, *(np.arange(count) for count in counts)])
        queries = int(query.max()) + 1
        context = DecodeContext(
            self._kv,
            write=self._tensor(tree * self._kv.slots + np.concatenate(slots)),
            query=self._tensor(tree * queries + query),
            queries=queries,
            mask=self._mask(fills, queries, used),
        )
        tokens = np.concatenate([columns.token, *(fill.tokens for fill in fills.values())])
        positions = np.concatenate([columns.position, *(fill.positions for fill in fills.values())])
        starts = len(columns.row) + np.cumsum([0, *counts])
        last = [start + np.array(f.last) for start, f in zip(starts, fills.values(), strict=False)]
        sample = np.concatenate([np.arange(len(columns.row)), *last])
        self._stats.prefill_tokens += sum(counts)
        for number, fill in fills.items():
            columns.open(fill.opening(number, self._row(number)))
        self._forward(tokens, positions, context, sample)

    def _forward(
        self, tokens: np.ndarray, positions: np.ndarray, context: DecodeContext, sample: np.ndarray
    ) -> None:
        """Run the model on the flat tokens and append one drawn token to every column."""
        unique, expand = np.unique(sample, return_inverse=True)
        logits = self._model(
            input_ids=self._tensor(tokens)[None],
            position_ids=self._tensor(positions)[None],
            logits_to_keep=self._tensor(unique),
            use_cache=False,
            tree=context,
        ).logits[0]
        if len(unique) < len(sample) or (np.diff(expand) < 0).any():
            logits = logits[self._tensor(expand)]
        columns = self._columns
        drawn, logprobs = draw(logits, uniforms(columns.seed, columns.length), self._temperature)
        ids = drawn.cpu().numpy()
        columns.append(ids, logprobs.cpu().numpy(), np.isin(ids, self._eos))
        self._stats.forward_calls += 1
        self._stats.decode_tokens += len(sample)

    def _mask(self, fills: dict[int, Fill], queries: int, used: int) -> torch.Tensor:
        """What each query sees, as an additive mask [T, 1, G * Q, used]."""
        visible = np.zeros((len(self._rows), queries, used), dtype=bool)
        decode = self._columns.visible[:, :queries, :used]
        visible[:, : decode.shape[1]] = decode
        for number, fill in fills.items():
            visible[number] = False
            lengths = [len(slots) for slots in fill.sees]
            rows = np.repeat(np.arange(len(lengths)), lengths)
            visible[number, rows, np.concatenate(fill.sees)] = True
        mask = torch.from_numpy(visible).to(self._device)
        return grouped_mask(mask, self._kv.groups, self._dtype)

    def _fill(self, number: int) -> Fill:
        """Plan what a tree must be fed for its new requests; assigns slots to it."""
        row = self._row(number)
        paths = [request.node.path() for request in row.requests]
        living = list(dict.fromkeys(node for path in paths for node in path))
        self._compact(number, row, living)
        fill = Fill()
        ends = {request.node for request in row.requests}
        seen: dict[Node, list[int]] = {}
        fed: dict[Node, int] = {}
        for node in living:
            slots = row.slots(node)
            # A path's last token is fed even where it is cached: its logits are wanted.
            first = min(len(slots), len(node.tokens) - (node in ends))
            fresh = range(row.used, row.used + len(node.tokens) - len(slots))
            slots += fresh
            row.used = fresh.stop
            row.cached[node.key] = Cached(node.start, slots)
            above = seen[node.parent] if node.parent else []
            seen[node] = above + slots
            for at in range(first, len(node.tokens)):
                fed[node] = len(fill.tokens)
                fill.tokens.append(node.tokens[at])
                fill.positions.append(node.start + at)
                fill.slots.append(slots[at])
                fill.sees.append(above + slots[: at + 1])
        fill.paths = [seen[request.node] for request in row.requests]
        fill.last = [fed[request.node] for request in row.requests]
        return fill

    def _compact(self, number: int, row: Row, living: list[Node]) -> None:
        """Forget the slots that no living path sees, once they are a quarter of the tree's."""
        kept = {node: row.slots(node) for node in living}
        order = [slot for slots in kept.values() for slot in slots]
        if len(order) > 0.75 * row.used:
            return
        self._kv.compact(number, self._tensor(np.array(order)))
        row.cached, row.used = {}, 0
        for node, slots in kept.items():
            end = row.used + len(slots)
            row.cached[node.key] = Cached(node.start, list(range(row.used, end)))
            row.used = end

    def _segments(self, number: int, row: Row) -> list[Segment]:
        """The segments of a tree whose columns are all done; remembers where they lie."""
        results = self._columns.close(number, len(row.requests))
        row.used = int(self._columns.used[number])
        for request, result in zip(row.requests, results, strict=True):
            row.cached[request.seed] = Cached(request.node.end, result.slots)
        return [Segment(result.tokens, result.logprobs, result.ended) for result in results]

    def _row(self, number: int) -> Row:
        row = self._rows[number]
        assert row is not None
        return row

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(self._device)
