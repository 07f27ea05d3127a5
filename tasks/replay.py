"""Carry out recorded steps again, in a folder of their own: what reproduction and resuming share.

Never touches what is stored. Only steps that sample nothing are repeated unasked.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tasks.differences import Comparison
from tasks.hashing import content_hash
from tasks.lineage import FILE, Lineage, Record
from tasks.resources import Resources
from tasks.steps import Job, Sections, Step, is_foreign
from tasks.update import UPDATE
from treepo.errors import UserError
from treepo.plugins import import_plugins

TOLERANCE = 1e-4  # of what was made on a GPU, relative to the larger of 1 and the stored number


def comparison_of(record: Record) -> Comparison:
    """How what a record speaks of is compared: a GPU adds numbers up in no fixed order."""
    on_cpu = str(record.device.get("device", "cpu")).startswith("cpu")
    return Comparison() if on_cpu else Comparison(TOLERANCE)


def no_source(_: Iterable[Path]) -> None:
    """Where missing artifacts can be had: nowhere."""


@dataclass
class Replay:
    """Artifacts made again, by name; `root` is the stored run, `scratch` a new folder.

    chain: make all inputs again too. fetch: is told paths that are missing, and may bring them.
    made: what was made and is still needed.
    """

    root: Path
    lineage: Lineage
    scratch: Path
    resources: Resources
    steps: Mapping[str, Step]
    chain: bool = False
    fetch: Callable[[Iterable[Path]], None] = no_source
    made: dict[str, Path] = field(default_factory=dict)

    def make(self, artifact: str) -> Path:
        """Carry out the recorded step, after those that it needs; returns where the result lies.

        Raises UserError naming an input that is missing, changed, or comes out differently.
        """
        order = self._order(artifact)
        last_use = {name: user for user in order for name in self.record(user).inputs}
        for name in order:
            record = self.record(name)
            if name not in self.made:
                inputs = {source: self._input(source, h) for source, h in record.inputs.items()}
                self.made |= self._carry_out(record, inputs)
            for source in record.inputs:  # policies are large: none stays longer than it must
                if last_use[source] == name and source in self.made:
                    shutil.rmtree(self.made[source], ignore_errors=True)
        return self.made[artifact]

    def record(self, artifact: str) -> Record:
        """What made an artifact. Raises UserError where nothing is recorded."""
        record = self.lineage.get(artifact)
        if record is None:
            raise UserError(f"{self.root / artifact}: {FILE} does not say what made it")
        return record

    def _order(self, artifact: str) -> list[str]:
        """What is to be made again, inputs first; a loop, as a chain may be thousands long."""
        order: dict[str, None] = {}
        waiting = [(artifact, False)]
        while waiting:
            name, ready = waiting.pop()
            if name in order:
                continue
            if ready:
                order[name] = None
                continue
            waiting.append((name, True))
            waiting += [(source, False) for source in reversed(self._to_make(name))]
        return list(order)

    def _to_make(self, artifact: str) -> list[str]:
        """The inputs of an artifact that are to be made again."""
        inputs = self.record(artifact).inputs
        if not self.chain:
            self.fetch(self.root / name for name in inputs)
        return [
            name
            for name in inputs
            if not is_foreign(name)
            and (self.chain or (not (self.root / name).exists() and replayable(self.lineage, name)))
        ]

    def _input(self, name: str, wanted: str) -> Path:
        """An input as it was. Raises UserError naming it where it is missing or changed."""
        path, source = self.root / name, "stored"
        if name in self.made:
            path, source = self.made[name], "made again"
        elif not path.exists():
            raise UserError(f"{path}: input is missing; --chain makes the inputs again too")
        found = content_hash(path)
        if found != wanted and self._nearly(name):
            return self.root / name
        if found != wanted:
            raise UserError(
                f"{self.root / name}: input differs: {source} {found}, but recorded is {wanted}"
            )
        return path

    def _nearly(self, name: str) -> bool:
        """Whether an input made again is the stored one but for the order in which a GPU adds."""
        comparison = comparison_of(self.record(name))
        if name not in self.made or not comparison.tolerance or not (self.root / name).exists():
            return False
        return comparison.first_difference(self.root / name, self.made[name]) is None

    def _carry_out(self, record: Record, inputs: dict[str, Path]) -> dict[str, Path]:
        step = self.steps.get(record.step)
        if step is None:
            path = self.root / record.artifact
            raise UserError(f"{path}: no step makes it alone; run 'treepo {record.step}' again")
        _refuse_other_files(record)
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


def _refuse_other_files(record: Record) -> None:
    """Raise UserError naming the user's file that is missing, or is not what the step read."""
    for name, wanted in record.files.items():
        try:
            found = content_hash(Path(name).expanduser())
        except OSError as error:
            raise UserError(f"{name}: input cannot be read ({error.strerror})") from None
        if found != wanted:
            raise UserError(f"{name}: input differs: found {found}, but recorded is {wanted}")


def replayable(lineage: Lineage, artifact: str) -> bool:
    """Whether an artifact that is gone is made again unasked: a policy, by its update."""
    record = lineage.get(artifact)
    return record is not None and record.step == UPDATE.name and artifact.startswith("policy/")


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """The number of threads that the result was made with."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
