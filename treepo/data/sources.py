"""Train and held-out problems from wherever the parameters say.

It knows how a source is cut or sampled, by seed; it knows nothing about formats, tasks or prompts.
"""

from __future__ import annotations

from random import Random

from datasets import Dataset, Features, Value

from treepo.data.files import Columns, read
from treepo.data.mix import Row, generate_mix, normalised
from treepo.errors import UserError
from treepo.params import DataParams
from treepo.seeds import derive

GENERATED = "reasoning_gym"
FEATURES = Features({name: Value("string") for name in ("problem", "answer", "solution", "family")})


def load(params: DataParams, seed: int) -> tuple[Dataset, Dataset]:
    """The train and held-out rows: columns problem, answer, solution, family.

    A generated mix has exactly the sizes wanted and no problem twice. From a file or the hub at
    most `train_size` and `heldout_size` rows are taken, in an order that the seed decides; where
    both come from one source, held-out rows are taken first and repeat no problem.

    Raises UserError naming the key, or the file and row, of anything wrong.
    """
    apart = params.heldout_source
    if params.source == GENERATED and apart in (None, GENERATED):
        sizes = (params.train_size, params.heldout_size)
        train, heldout = generate_mix(params.families, sizes, derive(seed, "generated"))
    elif apart is None:
        rows = _take(params, params.source, params.split, None, derive(seed, "cut"))
        train, heldout = _cut(params, rows)
    else:
        train = _take(params, params.source, params.split, params.train_size, derive(seed, "train"))
        heldout = _take(
            params, apart, params.heldout_split, params.heldout_size, derive(seed, "heldout")
        )
    return Dataset.from_list(train, FEATURES), Dataset.from_list(heldout, FEATURES)


def _take(params: DataParams, source: str, split: str, size: int | None, seed: int) -> list[Row]:
    """At most `size` rows (all by default) of one source, in random order."""
    if source == GENERATED:
        return generate_mix(params.families, (size or 0, 0), seed)[0]
    rows = read(source, split, Columns(params.problem_column, params.answer_column))
    Random(seed).shuffle(rows)
    return rows[:size]


def _cut(params: DataParams, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Held-out rows from the front, all different, and train rows from what is left."""
    first: dict[str, int] = {}
    for row, content in enumerate(rows):
        first.setdefault(normalised(content["problem"]), row)
    if len(first) < params.heldout_size + 1:
        raise UserError(
            f"{params.source}: {len(first)} distinct problems are too few to hold"
            f" {params.heldout_size} out (data.heldout_size) and train on the rest"
        )
    chosen = list(first.values())[: params.heldout_size]
    others = sorted(set(range(len(rows))) - set(chosen))
    return [rows[row] for row in others[: params.train_size]], [rows[row] for row in chosen]
