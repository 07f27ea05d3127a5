"""Train and held-out problems from wherever the parameters say.

It knows how a source is cut or sampled, by seed; it knows nothing about formats, tasks or prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from datasets import Dataset, Features, Value

from treepo.data.files import BadRows, local_file, named, read
from treepo.data.mix import Row, generate_mix, normalised
from treepo.errors import UserError
from treepo.params import GENERATED, DataParams, DatasetParams
from treepo.seeds import derive

FEATURES = Features({name: Value("string") for name in ("problem", "answer", "solution", "family")})
Source = str | DatasetParams


def load(params: DataParams, seed: int, bad: BadRows | None = None) -> tuple[Dataset, Dataset]:
    """The train and held-out rows: columns problem, answer, solution, family.

    A generated mix has exactly the sizes wanted and no problem twice. From a file or the hub at
    most `train_size` and `heldout_size` rows are taken, in an order that the seed decides; where
    both come from one source, held-out rows are taken first and repeat no problem. No more rows
    than these are ever held in memory. bad: gets the rows that are no problems.

    Raises UserError naming the key, or the file and row, of anything wrong.
    """
    bad = [] if bad is None else bad
    apart = params.heldout_source
    if params.source == GENERATED and apart in (None, GENERATED):
        sizes = (params.train_size, params.heldout_size)
        own = derive(seed, "generated")
        train, heldout = generate_mix(params.families, sizes, own, params.gold)
    elif apart is None:
        size = params.train_size + params.heldout_size
        rows = _take(params, params.source, params.split, size, derive(seed, "cut"), bad)
        train, heldout = _cut(params, rows, bad)
    else:
        own = derive(seed, "train")
        train = _take(params, params.source, params.split, params.train_size, own, bad)
        own = derive(seed, "heldout")
        heldout = _take(params, apart, params.heldout_split, params.heldout_size, own, bad)
    return Dataset.from_list(train, FEATURES), Dataset.from_list(heldout, FEATURES)


def excluded(params: DataParams) -> Iterator[str]:
    """The problems of the sets that training must not overlap with, beside the held-out one."""
    for source in params.exclude:
        for row in read(_dataset(params, source, params.heldout_split), params.mirrors, []):
            yield row["problem"]


def local_files(params: DataParams) -> list[Path]:
    """The files that problems are read from, as they are written in the parameters."""
    sources = (params.source, params.heldout_source, *params.exclude)
    read_from = [_dataset(params, one, "") for one in sources if one not in (None, GENERATED)]
    files = (local_file(dataset, params.mirrors) for dataset in read_from)
    return [file for file in files if file is not None]


def _dataset(params: DataParams, source: Source, split: str) -> DatasetParams:
    if isinstance(source, DatasetParams):
        return source
    return named(source, split, params.problem_column, params.answer_column)


def _take(
    params: DataParams, source: Source, split: str, size: int, seed: int, bad: BadRows
) -> list[Row]:
    """At most `size` rows of one source, in random order."""
    if source == GENERATED:
        return generate_mix(params.families, (size, 0), seed, params.gold)[0]
    dataset = _dataset(params, source, split)
    before = len(bad)
    rows = _sample(read(dataset, params.mirrors, bad), size, Random(seed))
    if not rows:
        where, reason = bad[before] if len(bad) > before else (dataset.name, "no row is taken")
        raise UserError(f"{where}: {reason}; no row of this source can be used")
    return rows


def _sample(rows: Iterator[Row], size: int, random: Random) -> list[Row]:
    """`size` of the rows, each as likely as any other, in random order (reservoir sampling)."""
    kept: list[Row] = []
    for count, row in enumerate(rows):
        if count < size:
            kept.append(row)
        elif (place := random.randrange(count + 1)) < size:
            kept[place] = row
    random.shuffle(kept)
    return kept


def _cut(params: DataParams, rows: list[Row], bad: BadRows) -> tuple[list[Row], list[Row]]:
    """Held-out rows from the front, all different, and train rows from what is left."""
    first: dict[str, int] = {}
    for row, content in enumerate(rows):
        first.setdefault(normalised(content["problem"]), row)
    if len(first) < params.heldout_size + 1:
        name = params.source if isinstance(params.source, str) else params.source.name
        rejected = f"; {len(bad)} bad rows, the first: {bad[0][0]}: {bad[0][1]}" if bad else ""
        raise UserError(
            f"{name}: {len(first)} distinct problems are too few to hold"
            f" {params.heldout_size} out (data.heldout_size) and train on the rest{rejected}"
        )
    chosen = list(first.values())[: params.heldout_size]
    others = sorted(set(range(len(rows))) - set(chosen))
    return [rows[row] for row in others[: params.train_size]], [rows[row] for row in chosen]
