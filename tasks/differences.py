"""Where two files or folders differ first, in words; numbers may be compared within a tolerance."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tasks.hashing import content_hash
from tasks.lineage import flatten


@dataclass
class Comparison:
    """Compares artifacts. Real numbers may differ by `tolerance`, relative to the larger of 1 and
    the stored one; without a tolerance, bytes must be the same.

    largest: the largest such difference so far.
    """

    tolerance: float = 0.0
    largest: float = 0.0

    def first_difference(self, stored: Path, again: Path) -> str | None:
        """Where two files or folders differ first, in words; None where they are the same."""
        if content_hash(stored) == content_hash(again):
            return None
        if stored.is_dir():
            return self._folder_difference(stored, again)
        readers = {".parquet": _cells, ".json": _entries, ".safetensors": _tensors}
        read = readers.get(stored.suffix)
        try:
            pairs = zip_longest(read(stored), read(again)) if read else None
            found = pairs and self._first(stored, pairs)
        except (OSError, ValueError, AttributeError, SafetensorError):
            return _byte_difference(stored, again)
        if found or (pairs and self.tolerance):
            return found
        return _byte_difference(stored, again)

    def _folder_difference(self, stored: Path, again: Path) -> str | None:
        names = {p.relative_to(d).as_posix() for d in (stored, again) for p in d.rglob("*")}
        for name in sorted(names):
            old, new = stored / name, again / name
            if not (old.exists() and new.exists()):
                return f"{old}: only {'stored' if old.exists() else 'made again'}"
            if old.is_file() and (difference := self.first_difference(old, new)):
                return difference
        return None

    def _first(self, file: Path, pairs: Iterable[Any]) -> str | None:
        """The first two parts that do not go by the same name or value."""
        for was, now in pairs:
            if was is None or now is None or was[0] != now[0]:
                names = [part[0] if part else "nothing" for part in (was, now)]
                return f"{file}: {names[0]} stored, {names[1]} made again"
            if not self._same(was[1], now[1]):
                return f"{file}: {was[0]}: {was[1]!r:.80} stored, {now[1]!r:.80} made again"
        return None

    def _same(self, was: Any, now: Any) -> bool:
        if isinstance(was, Tensor) and isinstance(now, Tensor):
            return self._same_tensor(was, now)
        if was == now:
            return True
        if isinstance(was, list) and isinstance(now, list):
            return len(was) == len(now) and all(map(self._same, was, now))
        if not (isinstance(was, float) and isinstance(now, float)):
            return False
        if math.isnan(was) and math.isnan(now):
            return True
        return self._within(abs(was - now) / max(1.0, abs(was)))

    def _same_tensor(self, was: Tensor, now: Tensor) -> bool:
        if was.shape != now.shape or was.dtype != now.dtype:
            return False
        gaps = (was - now).abs() / was.abs().clamp(min=1)
        return not gaps.numel() or self._within(float(gaps.max()))

    def _within(self, gap: float) -> bool:
        within = gap <= self.tolerance
        if within:
            self.largest = max(self.largest, gap)
        return within


def _cells(file: Path) -> Iterable[tuple[str, Any]]:
    """Every cell of a table, column by column."""
    table = pq.read_table(file)
    yield "columns", [f"{field.name}: {field.type}" for field in table.schema]
    yield "rows", table.num_rows
    for name in table.column_names:
        for row, value in enumerate(table[name].to_pylist()):
            yield f"column '{name}', row {row}", value


def _entries(file: Path) -> Iterable[tuple[str, Any]]:
    return sorted(flatten(json.loads(file.read_text())).items())


def _tensors(file: Path) -> Iterable[tuple[str, Any]]:
    return sorted(load_file(file).items())


def _byte_difference(stored: Path, again: Path) -> str:
    old, new = stored.read_bytes(), again.read_bytes()
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
    where = f"byte {at}" if at is not None else f"length {len(old)} / {len(new)}"
    return f"{stored}: {where}"
