"""Two runs side by side: where their parameters, code, packages, data and artifacts part.

Reads lineage files alone, so that it is quick and needs no artifact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.lineage import FILE, Lineage, Record, flatten
from treepo.errors import UserError

VIEWS = {"resolve", "report", "settings", "summarize"}  # they show parameters or measured times
Pair = tuple[str, str]


@dataclass(frozen=True)
class FirstDifference:
    """The first artifact, in order of making, that is not the same in both runs.

    hashes: in A, in B. inputs: those of its inputs, and of the user's files, that differ, or that
    one run lacks. params: what the step read that differs. made_with: code, packages, device and
    seed where they differ.
    """

    artifact: str
    step: str
    hashes: Pair
    inputs: list[str]
    params: dict[str, Pair]
    made_with: dict[str, Pair]


@dataclass(frozen=True)
class Comparison:
    """What differs, by name: (in A, in B). alone: number of artifacts that one run alone has."""

    params: dict[str, Pair]
    code: dict[str, Pair]
    packages: dict[str, Pair]
    device: dict[str, Pair]
    data: dict[str, Pair]
    first: FirstDifference | None
    same: int
    alone: tuple[int, int]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        parts = (self.params, self.code, self.packages, self.device, self.data, self.first)
        return not any(parts) and self.alone == (0, 0)


def compare(a: Path, b: Path) -> Comparison:
    """Compare the runs in two folders. Raises UserError where one is no run."""
    old, new = _records(a), _records(b)
    both = [name for name in old if name in new]
    first = next((n for n in both if old[n].hash != new[n].hash), None)
    return Comparison(
        params=_pairs(*(flatten(_merged(run, "params")) for run in (old, new))),
        code=_pairs(*(_values(run, "code") for run in (old, new))),
        packages=_pairs(*(_values(run, "packages") for run in (old, new))),
        device=_pairs(*(_values(run, "device") for run in (old, new))),
        data=_pairs(_data(old), _data(new)),
        first=_describe(first, old, new) if first else None,
        same=sum(old[name].hash == new[name].hash for name in both),
        alone=(len(old) - len(both), len(new) - len(both)),
    )


def _records(folder: Path) -> dict[str, Record]:
    """A run's records in order of making, without views."""
    if not (folder / FILE).is_file():
        raise UserError(f"{folder}: no run lies here (it has no {FILE})")
    return {record.artifact: record for record in Lineage(folder) if record.step not in VIEWS}


def _data(run: Mapping[str, Record]) -> dict[str, str]:
    """Hashes of the data, and of the user's files that they were made from."""
    hashes = {name: r.hash for name, r in run.items() if name.partition("/")[0] == "data"}
    return hashes | _merged(run, "files")


def _merged(run: Mapping[str, Record], part: str) -> dict[str, Any]:
    """The last value of every key."""
    return {key: value for record in run.values() for key, value in getattr(record, part).items()}


def _values(run: Mapping[str, Record], part: str) -> dict[str, str]:
    """All values that a key had over the run, in order, where there were several."""
    found: dict[str, dict[str, None]] = {}
    for record in run.values():
        for key, value in getattr(record, part).items():
            found.setdefault(key, {})[str(value)] = None
    return {key: ", then ".join(values) for key, values in found.items()}


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Pair]:
    keys: Iterable[str] = dict.fromkeys([*a, *b])
    return {key: (_text(a, key), _text(b, key)) for key in keys if a.get(key) != b.get(key)}


def _text(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "absent"
    value = values[key]
    return value if isinstance(value, str) else json.dumps(value)


def _describe(name: str, old: dict[str, Record], new: dict[str, Record]) -> FirstDifference:
    a, b = old[name], new[name]
    made_with = {
        **_pairs(a.code, b.code),
        **_pairs(a.packages, b.packages),
        **_pairs(a.device, b.device),
        **_pairs({"seed of the step": a.seed}, {"seed of the step": b.seed}),
    }
    return FirstDifference(
        artifact=name,
        step=a.step,
        hashes=(a.hash, b.hash),
        inputs=list(_pairs({**a.inputs, **a.files}, {**b.inputs, **b.files})),
        params=_pairs(flatten(a.params), flatten(b.params)),
        made_with=made_with,
    )
