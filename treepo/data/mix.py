"""Problems generated as a weighted mix of task families, all different.

It knows how many problems of which family are wanted; it knows nothing about how one is made or
what becomes of it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from random import Random

from treepo.data.families import FAMILIES, family_of, generate, known_families
from treepo.errors import UserError
from treepo.seeds import derive

Row = dict[str, str]  # problem, answer, solution, family

# A family counts as exhausted once fewer than one draw in so many gives a new problem.
RARE = 100


def generate_mix(
    weights: Mapping[str, int], sizes: tuple[int, int], seed: int, gold: str = "answer"
) -> tuple[list[Row], list[Row]]:
    """Two sets of rows of the given sizes, each with the families in proportion to `weights`.

    gold: whether the gold answer is the task's "answer", or its whole "entry" as JSON. No problem
    occurs twice, in one set or across both. Raises UserError for an unknown family, or where the
    families do not hold enough different problems.
    """
    if not weights:
        raise UserError(f"data.families: is empty; there are: {', '.join(FAMILIES)}")
    for name in weights:
        if name not in known_families():
            raise UserError(f"data.families.{name}: no such family{_nearest(name)}")
    shares = (_apportion(weights, sizes[0]), _apportion(weights, sizes[1]))
    pools = {
        name: _distinct(name, shares[0][name] + shares[1][name], derive(seed, "family", name), gold)
        for name in weights
    }
    _check_enough(pools, shares)
    train = [row for name, pool in pools.items() for row in pool[: shares[0][name]]]
    heldout = [row for name, pool in pools.items() for row in pool[shares[0][name] :]]
    Random(derive(seed, "mix", "train")).shuffle(train)
    Random(derive(seed, "mix", "heldout")).shuffle(heldout)
    return train, heldout


def normalised(problem: str) -> str:
    """What two problems must not share: the text in lower case, white space collapsed."""
    return " ".join(problem.lower().split())


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, known_families(), 1, 0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(FAMILIES)}"


def _apportion(weights: Mapping[str, int], size: int) -> dict[str, int]:
    """Whole numbers that add up to `size`, by largest remainder (ties: in the order given)."""
    total = sum(weights.values())
    shares = {name: size * weight // total for name, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda name: -(size * weights[name] % total))
    for name in by_remainder[: size - sum(shares.values())]:
        shares[name] += 1
    return shares


def _distinct(name: str, wanted: int, seed: int, gold: str) -> list[Row]:
    """Up to `wanted` rows without a repeated problem, in random order."""
    family = family_of(name)
    rows: dict[str, Row] = {}
    batch = max(wanted, 10 * RARE)
    draws = 0
    while len(rows) < wanted:
        before = len(rows)
        for item in generate(name, batch, derive(seed, "draws", draws)):
            problem, solution = family.ask(item), family.solve(item)
            # Word lists hold a few accents; a solution is plain ASCII.
            if solution.isascii() and (gold == "entry" or item["answer"] is not None):
                answer = item["answer"] if gold == "answer" else json.dumps(item, default=str)
                row = Row(problem=problem, answer=answer, solution=solution, family=name)
                rows.setdefault(normalised(problem), row)
        draws += batch
        if (len(rows) - before) * RARE < batch:
            break
    # Frequent problems come up first, so the order of first appearance would not be a fair cut.
    found = list(rows.values())
    Random(derive(seed, "order")).shuffle(found)
    return found[:wanted]


def _check_enough(
    pools: Mapping[str, list[Row]], shares: tuple[dict[str, int], dict[str, int]]
) -> None:
    for name, pool in pools.items():
        wanted = shares[0][name] + shares[1][name]
        if len(pool) < wanted:
            total = sum(len(rows) for rows in pools.values())
            raise UserError(
                f"data.families: the mix has only {total} distinct problems ('{name}' gives"
                f" {len(pool)} of {wanted} wanted): lower data.train_size, data.heldout_size or"
                f" its weight"
            )
