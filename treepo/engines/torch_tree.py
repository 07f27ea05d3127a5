"""TorchEngine: one batch row a tree, one query column a living path (DESIGN section 5).

Each token's keys and values are held once; a path is a set of slots that it may see. Forking
adds a column and copies nothing; a finished path drops its column; a free row takes the next
prompt. Knows models and tokens, nothing of heuristics, text or rewards.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Set
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
import transformers

from treepo.engines.admission import Admission
from treepo.engines.base import EngineStats, numbered
from treepo.engines.batch import Feed, assemble
from treepo.engines.columns import Columns, Opening
from treepo.engines.draws import draw, uniforms
from treepo.engines.fixed import FixedRows, check_rows_alike
from treepo.engines.kv import KVPool
from treepo.engines.plan import Cache, Cached, Plan, View, lay_out, plan
from treepo.errors import WorkError
from treepo.params import EngineParams, SamplingParams
from treepo.sampling import Grower, Request
from treepo.tree import Segment, Tree

FILL_TOKENS = 2048  # fed at once beside the decoding columns; bounds the activations


@dataclass
class Row:
    """A tree in the batch. slots: of its trunk; bundles: its numbers in the pool."""

    index: int
    grower: Grower
    requests: list[Request]
    cache: Cache = field(default_factory=dict[int, Cached])
    bundles: list[int] = field(default_factory=list[int])
    slots: int = 0


class TorchEngine:
    """Samples trees with a Hugging Face causal LM that was loaded with "tree" attention."""

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        eos: Set[int],
        sampling: SamplingParams,
        params: EngineParams | None = None,
    ) -> None:
        self.params = params or EngineParams()
        dtype = self.params.dtype and getattr(torch, self.params.dtype)
        if dtype and next(model.parameters()).dtype != dtype:
            model = copy.deepcopy(model).to(dtype)
        self.model = model.eval()
        self.eos = np.array(sorted(eos), dtype=np.int64)
        self.sampling = sampling
        self._stats = EngineStats()
        if self.params.deterministic:
            check_rows_alike(model)

    def stats(self) -> EngineStats:
        """Counts since the engine was made."""
        return self._stats

    def run(self, growers: Iterable[Grower | None]) -> Iterator[tuple[int, Tree]]:
        """Yield (index of the grower, its finished tree), in the order of finishing.

        Raises UserError where a tree cannot fit the model's context or the memory, WorkError where
        the model's logits are not finite; trees that were yielded before stay.
        """
        return Batch(self, self._stats).run(numbered(growers))


class Batch:
    """The trees of one run. Nothing of another run, even an abandoned one, shows in it."""

    def __init__(self, engine: TorchEngine, stats: EngineStats) -> None:
        self._engine, self._stats = engine, stats
        like = next(engine.model.parameters()).detach()
        self._rows: dict[int, Row] = {}
        self._columns = Columns()
        self._pool = KVPool.empty(engine.model.config, like)
        self._admission = Admission(engine.model.config, like.dtype, engine.sampling, engine.params)

    def run(self, queue: Iterator[tuple[int, Grower] | None]) -> Iterator[tuple[int, Tree]]:
        """As `TorchEngine.run`."""
        waiting = self._admit(queue, [])
        while self._rows:
            with torch.inference_mode():
                waiting = self._step(waiting)
            for number in self._at_boundary(waiting):
                row = self._rows[number]
                try:
                    row.requests = row.grower.send(self._segments(number, row))
                    waiting.append(number)
                except StopIteration as stop:
                    self._pool.give_back(row.bundles)
                    del self._rows[number]
                    yield row.index, stop.value
            waiting += self._admit(queue, waiting)

    def _at_boundary(self, waiting: list[int]) -> list[int]:
        """Rows whose columns are all done."""
        busy = {*self._columns.live["row"].tolist(), *waiting}
        return [number for number in self._rows if number not in busy]

    def _admit(self, queue: Iterator[tuple[int, Grower] | None], waiting: list[int]) -> list[int]:
        """Give free rows the next prompts, as long as memory lasts and columns are wanted."""
        admitted: list[int] = []
        columns = len(self._columns) + sum(len(self._rows[at].requests) for at in waiting)
        while self._admission.open(len(self._rows), columns):
            entry = next(queue, None)
            if entry is None:
                break
            number = next(at for at in range(len(self._rows) + 1) if at not in self._rows)
            row = self._rows[number] = Row(entry[0], entry[1], next(entry[1]))
            self._admission.check(row.requests)
            columns += len(row.requests)
            admitted.append(number)
        return admitted

    def _step(self, waiting: list[int]) -> list[int]:
        """One forward call: fills waiting trees, decodes one token on all other columns.

        Returns the trees that still wait because others filled the call.
        """
        fed = 0
        plans: dict[int, Plan] = {}
        while waiting and fed < FILL_TOKENS:
            number, *waiting = waiting
            plans[number] = self._plan(number)
            fed += len(plans[number].tokens)
        addresses = self._columns.take_slots(self._pool.used)
        self._settle(plans)
        slots = {number: row.slots for number, row in self._rows.items()}
        feed = assemble(
            self._pool,
            self._columns.live,
            addresses,
            plans,
            slots,
            self._engine.params.deterministic,
        )
        for number, new in plans.items():
            self._columns.open(_opening(number, self._rows[number].requests, new))
        self._forward(feed)
        self._stats.prefill_tokens += fed
        return waiting

    def _plan(self, number: int) -> Plan:
        """Plan what a tree must be fed for its new requests; takes bundles and slots for it."""
        row, pool = self._rows[number], self._pool
        layout = lay_out(row.requests)
        pool.give_back(row.bundles)
        row.bundles = pool.take_bundles(layout.bundles)
        new = plan(number, layout, row.cache, row.bundles)
        self._stats.context_tokens += sum(request.node.end for request in row.requests)
        wanted = [request.max_tokens for request in row.requests]
        pool.used[row.bundles] = new.bundle_slots
        pool.room[row.bundles] = new.bundle_slots + np.bincount(layout.bundle, wanted).astype(int)
        row.cache, row.slots = new.cache, new.trunk_slots
        return new

    def _settle(self, plans: dict[int, Plan]) -> None:
        """Make room, move the planned trees' tokens and set what their columns see."""
        rows, pool = self._rows, self._pool
        paths = max(len(row.requests) for row in rows.values())
        pool.reserve(max(rows) + 1, paths, max(row.slots for row in rows.values()))
        self._stats.peak_bytes = max(self._stats.peak_bytes, pool.peak)
        if not plans:
            return
        for new in plans.values():
            pool.move(new.source, new.target)
        pool.trunks.hide(list(plans))
        pool.trunks.show(*_joined(new.trunk_view for new in plans.values()))
        pool.bundles.hide([number for new in plans.values() for number in new.numbers])
        pool.bundles.show(*_joined(new.bundle_view for new in plans.values()))

    def _forward(self, feed: Feed) -> None:
        """Run the model on the flat tokens and append one drawn token to every column."""
        with FixedRows() if self._engine.params.deterministic else nullcontext():
            logits = self._engine.model(
                input_ids=feed.tokens[None],
                position_ids=feed.positions[None],
                logits_to_keep=feed.keep,
                use_cache=False,
                tree=feed.context,
            ).logits[0]
        live = self._columns.live
        numbers = uniforms(live["seed"], live["length"])
        drawn, logprobs = draw(logits, feed.rows, numbers, self._engine.sampling)
        ids, values = drawn.cpu().numpy(), logprobs.cpu().numpy()
        if not np.isfinite(values).all():
            raise self._not_finite(live[~np.isfinite(values)])
        self._columns.append(ids, values, np.isin(ids, self._engine.eos))
        self._stats.forward_calls += 1
        self._stats.decode_tokens += len(ids)

    def _not_finite(self, columns: np.ndarray) -> WorkError:
        tree = self._rows[int(columns["row"][0])].index
        position = int(columns["position"][0])
        return WorkError(
            f"engine: the model's logits are not finite in tree {tree}, after token {position} "
            f"({len(columns)} paths): its weights have diverged or engine.dtype is too narrow"
        )

    def _segments(self, number: int, row: Row) -> list[Segment]:
        """The segments of a tree whose columns are all done; remembers where they lie."""
        results = self._columns.close(number, len(row.requests))
        for request, result in zip(row.requests, results, strict=True):
            row.cache[request.seed] = Cached(request.node.end, result.addresses)
        return [Segment(result.tokens, result.logprobs, result.ended) for result in results]


def _opening(number: int, requests: list[Request], new: Plan) -> Opening:
    """The columns that sample once a plan's tokens are fed."""
    return Opening(
        number,
        seeds=[request.seed for request in requests],
        limits=[request.max_tokens for request in requests],
        positions=[request.node.end for request in requests],
        bundle=new.bundle,
        lane=new.lane,
    )


def _joined(views: Iterable[View]) -> View:
    """The lists of several views, one after the other."""
    blocks, lanes, slots = (np.concatenate(parts) for parts in zip(*views, strict=True))
    return blocks, lanes, slots
