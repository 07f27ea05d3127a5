"""Make an artifact again from its lineage, in a folder of its own, and compare.

The stored artifact is never touched. With `chain`, its inputs are made again too, from the data
on; else they are the stored ones, whose hashes must be those recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import torch

from tasks.hashing import content_hash
from tasks.lineage import FILE, Lineage, Record
from tasks.resources import Resources
from tasks.run import STEPS
from tasks.run_efficiency import STEPS as EFFICIENCY_STEPS
from tasks.run_evaluation import STEPS as EVALUATION_STEPS
from tasks.steps import Job, Sections, flatten, is_foreign
from treepo.errors import UserError
from treepo.plugins import import_plugins


@dataclass
class Reproduction:
    """Artifacts made again, by name; `root` is the stored experiment, `scratch` a new folder."""

    root: Path
    lineage: Lineage
    scratch: Path
    resources: Resources
    chain: bool
    made: dict[str, Path] = field(default_factory=dict)

    def make(self, artifact: str) -> Path:
        """Carry out the recorded step; returns where its result lies."""
        if artifact not in self.made:
            record = self.record(artifact)
            inputs = {name: self.input(name, digest) for name, digest in record.inputs.items()}
            self.made |= self._carry_out(record, inputs)
        return self.made[artifact]

    def record(self, artifact: str) -> Record:
        """What made an artifact. Raises UserError where nothing is recorded."""
        record = self.lineage.get(artifact)
        if record is None:
            raise UserError(f"{self.root / artifact}: {FILE} does not say what made it")
        return record

    def input(self, name: str, wanted: str) -> Path:
        """An input as it was. Raises UserError naming it where it is missing or changed."""
        if self.chain and not is_foreign(name):
            path, source = self.make(name), "made again"
        else:
            path, source = self.root / name, "stored"
            if not path.exists():
                raise UserError(f"{path}: input is missing; --chain makes the inputs again too")
        found = content_hash(path)
        if found != wanted:
            raise UserError(
                f"{self.root / name}: input differs: {source} {found}, but recorded is {wanted}"
            )
        return path

    def _carry_out(self, record: Record, inputs: dict[str, Path]) -> dict[str, Path]:
        step = {**STEPS, **EFFICIENCY_STEPS, **EVALUATION_STEPS}.get(record.step)
        if step is None:
            path = self.root / record.artifact
            raise UserError(f"{path}: no step makes it alone; run 'treepo {record.step}' again")
        outputs = {name: self.scratch / name for name in step.outputs(record.iteration)}
        for path in outputs.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        params = step.params.model_validate(record.params)
        import_plugins(params.plugins)
        job = Job(
            iteration=record.iteration,
            seed=record.seed,
            inputs=inputs,
            outputs=outputs,
            params=Sections(params, step.reads),
            resources=self.resources,
            observed=record.observed,
        )
        with _threads(record.device.get("threads")):
            step.run(job)
        return outputs


def reproduce(path: Path, chain: bool) -> str | None:
    """None where the artifact comes out the same, else the first difference.

    Raises UserError where the path belongs to no experiment, or an input is missing or changed.
    """
    root, artifact = _locate(path)
    lineage = Lineage(root)
    if not path.exists():
        raise UserError(f"{path}: no such artifact")
    with TemporaryDirectory(prefix="treepo-") as folder, Resources() as resources:
        scratch = Path(folder) / root.name
        again = Reproduction(root, lineage, scratch, resources, chain).make(artifact)
        return first_difference(root / artifact, again)


def _locate(path: Path) -> tuple[Path, str]:
    """The experiment's folder and the artifact that `path` is, or is a part of."""
    absolute = path.absolute()
    for root in absolute.parents:
        if (root / FILE).is_file():
            lineage = Lineage(root)
            part = absolute.relative_to(root)
            for name in (part, *part.parents):
                if lineage.get(name.as_posix()):
                    return root, name.as_posix()
            raise UserError(f"{path}: {root / FILE} does not say what made it")
    raise UserError(f"{path}: lies in no experiment (no {FILE} in any folder above)")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """The number of threads that the result was made with."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
