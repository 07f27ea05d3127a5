"""Where two files or folders differ first, in words."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from tasks.hashing import content_hash
from tasks.lineage import flatten


def first_difference(stored: Path, again: Path) -> str | None:
    """Where two files or folders differ first, in words; None where they are the same bytes."""
    if content_hash(stored) == content_hash(again):
        return None
    if stored.is_dir():
        names = {p.relative_to(d).as_posix() for d in (stored, again) for p in d.rglob("*")}
        for name in sorted(names):
            old, new = stored / name, again / name
            if not (old.exists() and new.exists()):
                return f"{old}: only {'stored' if old.exists() else 'made again'}"
            if old.is_file() and (difference := first_difference(old, new)):
                return difference
    if stored.suffix == ".parquet":
        return _table_difference(stored, again)
    if stored.suffix == ".json":
        return _json_difference(stored, again)
    return _byte_difference(stored, again)


def _table_difference(stored: Path, again: Path) -> str:
    try:
        old, new = pq.read_table(stored), pq.read_table(again)
    except (OSError, ValueError):
        return _byte_difference(stored, again)
    if old.schema != new.schema or old.num_rows != new.num_rows:
        return f"{stored}: {old.num_rows} rows stored, {new.num_rows} made again, or other columns"
    for name in old.column_names:
        pairs = zip(old[name].to_pylist(), new[name].to_pylist(), strict=True)
        for row, (was, now) in enumerate(pairs):
            if was != now:
                return f"{stored}: column '{name}', row {row}: {was!r:.80} / {now!r:.80}"
    return f"{stored}: the same table in other bytes (written by another version?)"


def _json_difference(stored: Path, again: Path) -> str:
    try:
        old, new = (flatten(json.loads(path.read_text())) for path in (stored, again))
    except (ValueError, AttributeError):
        return _byte_difference(stored, again)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return f"{stored}: {key}: {old.get(key)!r} stored, {new.get(key)!r} made again"
    return _byte_difference(stored, again)


def _byte_difference(stored: Path, again: Path) -> str:
    old, new = stored.read_bytes(), again.read_bytes()
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), None)
    where = f"byte {at}" if at is not None else f"length {len(old)} / {len(new)}"
    return f"{stored}: {where}"
