"""TorchEngine: one batch row a tree, one query column a living path.

Each token's keys and values are held once; a path is the list of its tokens' slots. Forking
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
from torch import Tensor

from treepo.engines import kernel
from treepo.engines.admission import Admission
from treepo.engines.base import EngineStats, numbered
from treepo.engines.batch import Feed, assemble
from treepo.engines.columns import Columns, Opening
from treepo.engines.draws import draw, uniforms
from treepo.engines.fixed import FixedRows, check_rows_alike
from treepo.engines.graphs import FixedSteps
from treepo.engines.kv import KVPool, Slots
from treepo.engines.layout import laid_out
from treepo.engines.masks import TreeMasks
from treepo.engines.plan import Cache, Cached, Layout, Plan, lay_out, plan
from treepo.errors import WorkError
from treepo.params import EngineParams, SamplingParams
from treepo.sampling import Grower, Request
from treepo.tree import Segment, Tree

FILL_TOKENS = 2048  # fed at once beside the decoding columns; bounds the activations


@dataclass
class Row:
    """A tree in the batch. largest: slots that it may come to hold; plan: the latest."""

    index: int
    grower: Grower
    requests: list[Request]
    largest: int
    plan: Plan | None = None
    cache: Cache = field(default_factory=dict[int, Cached])

    @property
    def held(self) -> np.ndarray:
        """Its slots of the pool."""
        return self.plan.slots if self.plan else np.zeros(0, dtype=np.int64)


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
        # Rows in chunks of their own go through torch's products, which were looked at for it.
        kept = self.params.deterministic
        self.model = model.eval() if kept else laid_out(model.eval(), self.params.columns)
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
        config = engine.model.config
        self._rows: dict[int, Row] = {}  # the oldest first
        self._columns = Columns()
        self._admission = Admission(config, like.dtype, engine.sampling, engine.params)
        self._slots = Slots(self._admission.slots)
        self._pool = KVPool(config, like, self._slots.count)
        masks, fixed = TreeMasks(self._pool), engine.params.graphs
        self._masks = masks if fixed or not kernel.fits(self._pool) else None
        columns = engine.params.columns
        self._fixed = FixedSteps(engine.model, self._pool, masks, columns) if fixed else None

    def run(self, queue: Iterator[tuple[int, Grower] | None]) -> Iterator[tuple[int, Tree]]:
        """As `TorchEngine.run`."""
        waiting = self._admit(queue, [])
        while self._rows:
            with torch.inference_mode():
                waiting = self._step(waiting)
            refused = bool(waiting)
            for number in self._at_boundary(waiting):
                row = self._rows[number]
                try:
                    row.requests = row.grower.send(self._segments(number, row))
                    waiting.append(number)
                except StopIteration as stop:
                    self._slots.give_back(row.held)
                    del self._rows[number]
                    yield row.index, stop.value
            if not refused:
                waiting += self._admit(queue, waiting)

    def _at_boundary(self, waiting: list[int]) -> list[int]:
        """Rows whose columns are all done."""
        busy = {*self._columns.live["row"].tolist(), *waiting}
        return [number for number in self._rows if number not in busy]

    def _admit(self, queue: Iterator[tuple[int, Grower] | None], waiting: list[int]) -> list[int]:
        """Give free rows the next prompts, as long as columns are wanted beside those to come."""
        admitted: list[int] = []
        columns = len(self._columns) + sum(len(self._rows[at].requests) for at in waiting)
        while self._admission.open(len(self._rows), columns):
            entry = next(queue, None)
            if entry is None:
                break
            number = next(at for at in range(len(self._rows) + 1) if at not in self._rows)
            requests = next(entry[1])
            self._rows[number] = Row(*entry, requests, self._admission.largest(requests))
            columns += len(requests)
            admitted.append(number)
        return admitted

    def _step(self, waiting: list[int]) -> list[int]:
        """One forward call: fills waiting trees, decodes one token on all other columns.

        Returns the trees that still wait.
        """
        plans = self._go_on(waiting)
        standing = {number: row.plan for number, row in self._rows.items() if row.plan}
        if self._fixed and not plans:
            logits = self._fixed.logits(self._columns, standing)
            self._append(logits, torch.arange(len(logits), device=logits.device))
            return waiting
        deterministic = self._engine.params.deterministic
        feed = assemble(self._pool, self._masks, self._columns, standing, plans, deterministic)
        for number, new in plans.items():
            self._columns.open(_opening(number, self._rows[number].requests, new))
        self._append(self._logits(feed), feed.rows)
        self._stats.prefill_tokens += sum(len(new.tokens) for new in plans.values())
        return [number for number in waiting if number not in plans]

    def _go_on(self, waiting: list[int]) -> dict[int, Plan]:
        """Plans of the trees for which there are columns and slots, and room in the call.

        The oldest first: none overtakes one that must wait.
        """
        plans: dict[int, Plan] = {}
        fed, columns = 0, len(self._columns)
        for number in [number for number in self._rows if number in waiting]:
            row = self._rows[number]
            layout, wanted = lay_out(row.requests), len(row.requests)
            full = fed >= FILL_TOKENS or not self._admission.wide(columns, wanted)
            if full or not self._is_safe(number, layout):
                break
            plans[number] = self._plan(row, layout)
            fed += len(plans[number].tokens)
            columns += wanted
        return plans

    def _is_safe(self, number: int, layout: Layout) -> bool:
        """Whether a tree may hold what its next segments take."""
        held = {at: len(row.held) for at, row in self._rows.items()} | {number: layout.slots}
        largest = [row.largest for row in self._rows.values()]
        return self._admission.safe([*held.values()], largest)

    def _plan(self, row: Row, layout: Layout) -> Plan:
        """Plan what a tree must be fed for its new requests; takes slots for it."""
        new = row.plan = plan(layout, row.cache, row.held, self._slots)
        row.cache = new.cache
        self._stats.context_tokens += sum(request.node.end for request in row.requests)
        peak = self._slots.peak * self._admission.slot
        self._stats.peak_bytes = max(self._stats.peak_bytes, peak)
        return new

    def _logits(self, feed: Feed) -> Tensor:
        """What the model says [U, V] after the flat tokens that are kept."""
        with FixedRows() if self._engine.params.deterministic else nullcontext():
            return self._engine.model(
                input_ids=feed.tokens[None],
                position_ids=feed.positions[None],
                logits_to_keep=feed.keep,
                use_cache=False,
                tree=feed.context,
            ).logits[0]

    def _append(self, logits: Tensor, rows: Tensor) -> None:
        """Append one drawn token to every column; rows: int64 [C], of each its row of `logits`."""
        live = self._columns.live
        numbers = uniforms(live["seed"], live["length"])
        drawn, logprobs = draw(logits, rows, numbers, self._engine.sampling)
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
        results = self._columns.close(number, [request.node.end for request in row.requests])
        for request, result in zip(row.requests, results, strict=True):
            row.cache[request.seed] = Cached(request.node.end, result.slots)
        return [Segment(result.tokens, result.logprobs, result.ended) for result in results]


def _opening(number: int, requests: list[Request], new: Plan) -> Opening:
    """The columns that sample once a plan's tokens are fed."""
    return Opening(
        number,
        seeds=[request.seed for request in requests],
        limits=[request.max_tokens for request in requests],
        positions=[request.node.end for request in requests],
        slots=new.path_slots,
    )
