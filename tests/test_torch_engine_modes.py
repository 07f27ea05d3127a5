"""The engine's switches and limits: deterministic mode, types, memory, bad input."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_torch_engine import BASE, MIDDLE, NO_EOS, OFTEN, decode, prompts, run, tiny
from transformers import PreTrainedModel

from treepo.engines import kernel
from treepo.engines.decode import TreeRows
from treepo.engines.fixed import FixedRows, check_rows_alike, padded
from treepo.engines.torch_tree import Batch, TorchEngine
from treepo.errors import UserError, WorkError
from treepo.forest import MARKS, Forest
from treepo.params import EngineParams, SamplingParams
from treepo.sampling import Grower, Prompt, Request, grow_tree
from treepo.tree import Segment, Tree

PARAMS = SamplingParams(**{**BASE, "width": 6}, fallback=MIDDLE)
BATCH = prompts(5, 1, 9, 3, 12, 2, 7, 30)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny()


def engine(model: PreTrainedModel, eos: frozenset[int] = OFTEN, **changes: Any) -> TorchEngine:
    return TorchEngine(model, eos, PARAMS, EngineParams(**changes))


def trees(forest: Forest) -> dict[str, tuple[Any, ...]]:
    """Every bit of each tree, by the name of its prompt."""
    marks = [mark for mark in MARKS if getattr(forest, mark).any()]
    table = forest.to_arrow().drop_columns(["tree", *marks])
    for mark in MARKS:  # a column is there only where some tree has the mark
        table = table.append_column(mark, pa.array(getattr(forest, mark)))
    names = table["prompt_id"].to_pylist()
    return {
        name: tuple(
            table.slice(start, names.count(name)).to_pydict()[column]
            for column in table.column_names
        )
        for name in dict.fromkeys(names)
        for start in [names.index(name)]
    }


def apart(model: PreTrainedModel, batches: list[list[Prompt]], **changes: Any) -> list[str]:
    """Prompts whose trees differ in any bit between batches that hold them."""
    seen: dict[str, Any] = {}
    different: list[str] = []
    for batch in batches:
        for name, tree in trees(run(engine(model, **changes), PARAMS, batch)).items():
            if seen.setdefault(name, tree) != tree:
                different.append(name)
    return different


NEIGHBOURS = [BATCH[at : at + size] for size in (1, 2, 3, 8) for at in range(0, 8, size)]


@pytest.fixture
def without_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "library", lambda: None)


def test_without_the_kernel_the_same_trajectories(
    model: PreTrainedModel, request: pytest.FixtureRequest
) -> None:
    compiled = run(engine(model), PARAMS, BATCH)
    request.getfixturevalue("without_kernel")
    plain = run(engine(model), PARAMS, BATCH)
    assert plain.tokens.tolist() == compiled.tokens.tolist()
    assert np.abs(plain.logprobs - compiled.logprobs).max() < 1e-4


@pytest.mark.usefixtures("without_kernel")
def test_deterministic_without_the_kernel(model: PreTrainedModel) -> None:
    assert apart(model, NEIGHBOURS, deterministic=True) == []


@pytest.mark.usefixtures("without_kernel")
def test_a_step_reads_nothing_that_no_living_path_sees(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tree whose paths go on to their boundaries, torch's attention reads no slot in vain."""
    shown: list[bool] = []
    attend = TreeRows.attend

    def spy(self: TreeRows, *inputs: Any) -> None:
        shown.append(bool((self.mask == 0).any(2).all()))
        attend(self, *inputs)

    monkeypatch.setattr(TreeRows, "attend", spy)
    run(engine(model, NO_EOS), SamplingParams(**{**BASE, "width": 6}), BATCH[:1])
    assert all(shown)
    assert len(shown) == 2 * (24 - 4)  # layers; a segment's first token is drawn where it is filled


@pytest.mark.parametrize("threads", [1, 2])
def test_deterministic_trees_do_not_depend_on_their_neighbours(
    model: PreTrainedModel, threads: int
) -> None:
    torch.set_num_threads(threads)
    assert apart(model, NEIGHBOURS, deterministic=True) == []


@pytest.mark.skipif(kernel.library() is None, reason="there was no compiler for the kernel")
def test_tokens_that_are_fed_again_are_the_same_bits(model: PreTrainedModel) -> None:
    """So a tree does not show which of its tokens were decoded and which filled in later."""
    drawn: list[Segment] = []

    def grower(given: Segment | None) -> Grower:
        tree = Tree("p", [7, 8, 9], seed=0)
        if given is None:
            (given,) = yield [Request(tree.root, 40, 1)]
        node = tree.grow(tree.root, given, 1)
        drawn.append(given)
        drawn.extend((yield [Request(node, 20, 2), Request(node, 20, 3)]))
        return tree

    runner = engine(model, NO_EOS, deterministic=True)
    list(runner.run([grower(None)]))
    list(runner.run([grower(drawn[0])]))
    assert drawn[:3] == drawn[3:]


def test_without_the_switch_some_bits_differ(model: PreTrainedModel) -> None:
    """What the switch is for; without it, only rounding differs."""
    assert apart(model, NEIGHBOURS, deterministic=False)


@settings(max_examples=10)
@given(
    chosen=st.lists(st.sampled_from(range(8)), min_size=1, max_size=8, unique=True),
    rows=st.integers(1, 4),
    columns=st.sampled_from([1, 10, 100]),
)
def test_deterministic_trees_in_any_batch(chosen: list[int], rows: int, columns: int) -> None:
    model = tiny(kv_heads=1)
    batch = [BATCH[at] for at in chosen]
    changed = engine(model, deterministic=True, rows=rows, columns=columns)
    together = trees(run(changed, PARAMS, batch))
    first = trees(run(engine(model, deterministic=True), PARAMS, batch[:1]))
    assert together[batch[0].prompt_id] == first[batch[0].prompt_id]


def test_deterministic_mode_samples_the_same_trajectories(model: PreTrainedModel) -> None:
    fixed, free = (
        run(engine(model, deterministic=switch), PARAMS, BATCH) for switch in (True, False)
    )
    assert fixed.tokens.tolist() == free.tokens.tolist()


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 65, 200])
def test_products_in_chunks(rows: int) -> None:
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(1, rows, 48), torch.randn(20, 48), torch.randn(20)
    with FixedRows():
        chunked = torch.nn.functional.linear(inputs, weight, bias)
        flat = torch.addmm(bias, inputs[0], weight.T)
    expected = torch.nn.functional.linear(inputs, weight, bias)
    torch.testing.assert_close(chunked, expected)
    torch.testing.assert_close(flat, expected[0])
    assert padded(rows) % 64 == 0
    assert 0 <= padded(rows) - rows < 64


def test_rows_that_depend_on_their_place_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def uneven(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rows @ weight.T + torch.arange(len(rows))[:, None] * 1e-7

    monkeypatch.setattr("treepo.engines.fixed.linear", uneven)
    with pytest.raises(WorkError, match=r"engine\.deterministic"):
        check_rows_alike(torch.nn.Linear(4, 4))


def test_bfloat16_leaves_the_policy_as_it_is(model: PreTrainedModel) -> None:
    forest = run(engine(model, NO_EOS, dtype="bfloat16"), PARAMS, BATCH[:3])
    assert len(forest.leaves) == 18
    assert next(model.parameters()).dtype == torch.float32


def spoiled(model: PreTrainedModel, bad: int) -> PreTrainedModel:
    """Like `model`, with a token whose successors have no finite logits."""
    other = copy.deepcopy(model)
    other.get_output_embeddings().weight = torch.nn.Parameter(  # the two are tied
        other.get_output_embeddings().weight.clone()
    )
    with torch.no_grad():
        other.get_input_embeddings().weight[bad] = float("nan")
    return other


def test_logits_that_are_not_finite(model: PreTrainedModel) -> None:
    """The message names the tree; the trees that were done before are not lost."""
    batch = [Prompt("good", [7, 8, 9]), Prompt("bad", [7, 52, 9])]
    params = SamplingParams(width=2, depth=1, segment_length=6, initial_branching=2)
    growers = [grow_tree(prompt, params, 5, decode) for prompt in batch]
    only = frozenset(range(100)) - {52}
    runner = TorchEngine(spoiled(model, 52), only, params, EngineParams(rows=1))
    running = runner.run(growers)
    assert next(running)[0] == 0
    with pytest.raises(WorkError, match="not finite in tree 1, after token 2"):
        next(running)
    again = dict(runner.run([grow_tree(batch[0], params, 5, decode)]))
    assert len(again[0].leaves()) == 2


def test_a_prompt_longer_than_the_context(model: PreTrainedModel) -> None:
    limit = model.config.max_position_embeddings
    with pytest.raises(UserError, match=rf"prompt of {limit} tokens .* {limit} positions"):
        run(engine(model), PARAMS, prompts(limit))


def test_a_tree_larger_than_the_memory(model: PreTrainedModel) -> None:
    with pytest.raises(UserError, match=r"engine\.memory: a tree of 6 paths of 40 \+ 24 tokens"):
        run(engine(model, memory=1e-5), PARAMS, prompts(40))


def test_memory_and_columns_bound_the_batch(model: PreTrainedModel) -> None:
    """The same trees whatever enters together; fewer at a time take less memory and more calls."""
    peaks, calls, forests = [], [], []
    slot = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, width, bytes
    tree = (30 + 6 * 24) * slot / 2**30
    bounds = (1.01 * tree, 2 * tree, 8 * tree)
    for changes in (*({"memory": bound} for bound in bounds), {"columns": 1}):
        runner = engine(model, deterministic=True, **changes)
        forests.append(run(runner, PARAMS, BATCH[::-1]).to_arrow())
        peaks.append(runner.stats().peak_bytes)
        calls.append(runner.stats().forward_calls)
    assert all(forest.equals(forests[0]) for forest in forests)
    assert calls[3] > calls[0] > calls[1] > calls[2]
    assert peaks[3] <= peaks[0] < peaks[1] < peaks[2]
    assert all(peak <= bound * 2**30 for peak, bound in zip(peaks, bounds, strict=False))


@pytest.mark.parametrize("columns", [1, 6, 7, 20])
def test_columns_are_a_bound(
    model: PreTrainedModel, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a tree that has more by itself."""
    seen, append = [], Batch._append

    def spy(self: Batch, logits: torch.Tensor, rows: torch.Tensor) -> None:
        seen.append(len(self._columns))
        append(self, logits, rows)

    monkeypatch.setattr(Batch, "_append", spy)
    run(engine(model, columns=columns), PARAMS, BATCH)
    assert max(seen) <= max(columns, PARAMS.width)
    assert max(seen) > columns - PARAMS.width
