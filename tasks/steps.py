"""One mechanism for every step: skip what is there, refuse what misfits, make or take over, record.

A step is a function of its inputs, the parameters it declares, and seeds derived from them. It
writes to temporary names; only whole results get their real names, and then their lineage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.hashing import content_hash
from tasks.lineage import FILE, Lineage, Record, flatten
from tasks.provenance import code_version, device, package_versions
from tasks.resources import Resources
from tasks.sharing import NO_SIBLINGS, Siblings, link_or_copy
from tasks.workspace import Workspace
from treepo.errors import UserError, WorkError
from treepo.params import BenchmarkRunParams, EfficiencyParams, ExperimentParams
from treepo.params.ablation import AblationParams
from treepo.seeds import derive
from treepo.storage import atomic

Metrics = dict[str, float]
# In what torch raises: of memory on the CPU, and on a GPU.
NO_MEMORY = ("can't allocate memory", "out of memory")
RunParams = ExperimentParams | BenchmarkRunParams | EfficiencyParams | AblationParams


@dataclass(frozen=True)
class Job:
    """What a step's function gets: where to read and write, and the parameters it declared.

    seed: derived for this step and iteration. observed: measured values (such as times), recorded
    so that the step can be repeated.
    """

    iteration: int
    seed: int
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    params: Sections
    resources: Resources
    observed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """Where the step's only, or first, output goes."""
        return next(iter(self.outputs.values()))


class Sections:
    """The declared sections of the parameters, and no others: `params.sampling.width`."""

    def __init__(self, params: RunParams, names: tuple[str, ...]) -> None:
        self.names = ("seed", *names)
        self._values = params.model_dump(mode="json", include=set(self.names))
        for name in self.names:
            setattr(self, name, getattr(params, name))

    def values(self) -> dict[str, Any]:
        """Plain values, as they are recorded."""
        return {name: self._values[name] for name in self.names}


@dataclass(frozen=True)
class Step:
    """A kind of step. inputs and outputs: artifact names for an iteration; reads: its sections.

    An input may lie in another run's folder (`../../NAME/policy/000040`), with its own lineage.
    asked: further inputs, as the parameters ask for them. files: the user's own that it reads.
    observe: measured values that it shows.

    A view only shows what other artifacts hold: where those or the parameters have changed, it is
    made again; anything else is never overwritten.
    """

    name: str
    description: str
    inputs: Callable[[int], tuple[str, ...]]
    outputs: Callable[[int], tuple[str, ...]]
    reads: tuple[str, ...]
    run: Callable[[Job], Metrics]
    view: bool = False
    params: type[RunParams] = ExperimentParams
    asked: Callable[[int, ExperimentParams], tuple[str, ...]] = lambda _, __: ()
    files: Callable[[Sections], Iterable[Path]] = lambda _: ()
    observe: Callable[[Lineage], dict[str, Any]] = lambda _: {}

    def needs(self, iteration: int, params: ExperimentParams) -> tuple[str, ...]:
        """All artifacts that the step reads."""
        return (*self.inputs(iteration), *self.asked(iteration, params))


class Keeping:
    """What becomes of artifacts that are gone; this one wants everything to be there."""

    def expendable(self, artifact: str, lineage: Lineage) -> bool:
        """Whether an artifact may be missing though it was made."""
        del artifact, lineage
        return False

    def replayable(self, artifact: str, lineage: Lineage) -> bool:
        """Whether an artifact that is missing can be put back in its place."""
        del artifact, lineage
        return False

    def restore(self, artifact: str, context: Context) -> None:
        """Put a missing artifact back, with the bytes that lineage speaks of, or raise."""
        raise NotImplementedError


@dataclass(frozen=True)
class Context:
    """A run of any kind, of an experiment say: where, how, beside whom, who watches."""

    workspace: Workspace
    params: RunParams
    lineage: Lineage
    resources: Resources
    siblings: Siblings = NO_SIBLINGS
    mlflow_run: str | None = None
    prefect_run: str | None = None
    keeping: Keeping = field(default_factory=Keeping)

    def recorded(self, artifact: str) -> str:
        """The hash that lineage gives an artifact of this run; empty where it knows none."""
        record = self.lineage.get(artifact)
        return record.hash if record else ""

    def is_gone(self, artifact: str) -> bool:
        """Whether an artifact was made, is missing, and can be put back."""
        missing = not is_foreign(artifact) and not self.workspace.path(artifact).exists()
        return missing and self.keeping.replayable(artifact, self.lineage)


@dataclass(frozen=True)
class Made:
    """The outcome of a step: its first output's record, and whether it was made just now."""

    record: Record
    fresh: bool


def make(step: Step, context: Context, iteration: int = 0) -> Made:
    """Make a step's artifacts, unless they are there already.

    Raises UserError where an input is missing or is not what lineage says, or where the artifact
    was made with other parameters, inputs or files.
    """
    sections = Sections(context.params, step.reads)
    wanted = _wanted(step, context, iteration, sections)
    found = _find(step, context, wanted)
    if found:
        return found
    for name in filter(context.is_gone, wanted.inputs):
        context.keeping.restore(name, context)
    plan = replace(
        wanted,
        observed=step.observe(context.lineage),
        device=device(context.params.engine.device, context.resources.where.kind),
        mlflow_run=context.mlflow_run,
        prefect_run=context.prefect_run,
    )
    outputs = step.outputs(iteration)
    records = _take_over(context, plan, outputs) or _carry_out(step, context, plan, sections)
    context.lineage.append(*records)
    return Made(records[0], fresh=True)


def find(step: Step, context: Context, iteration: int = 0) -> Made | None:
    """What `make` would find there already; None where it would make something. Raises like it."""
    sections = Sections(context.params, step.reads)
    if any(context.lineage.get(name) is None for name in step.outputs(iteration)):
        return None
    return _find(step, context, _wanted(step, context, iteration, sections))


def _wanted(step: Step, context: Context, iteration: int, sections: Sections) -> Record:
    """What the records of a step's outputs must say of how they were made."""
    return Record(
        artifact="",
        hash="",
        step=step.name,
        iteration=iteration,
        inputs=_input_hashes(step, context, iteration),
        params=sections.values(),
        files=_file_hashes(step.files(sections)),
        seed=derive(context.params.seed, step.name, iteration),
    )


def _file_hashes(files: Iterable[Path]) -> dict[str, str]:
    """Hashes of the user's files; what cannot be read is for the step to name."""
    hashes: dict[str, str] = {}
    for file in files:
        with suppress(OSError):
            hashes[str(file)] = content_hash(file.expanduser())
    return hashes


def _input_hashes(step: Step, context: Context, iteration: int) -> dict[str, str]:
    """Verified hashes of all inputs; the recorded ones of those that can be put back."""
    names = step.needs(iteration, context.params)
    return {
        name: context.recorded(name) if context.is_gone(name) else verified_hash(context, name)
        for name in names
    }


def _find(step: Step, context: Context, wanted: Record) -> Made | None:
    check = _standing_view if step.view else _standing
    done = [check(context, name, wanted) for name in step.outputs(wanted.iteration)]
    return Made(done[0], fresh=False) if all(done) and done[0] else None


def _take_over(context: Context, plan: Record, outputs: tuple[str, ...]) -> list[Record]:
    """Give a sibling's equal artifacts their names here; nothing where there are none."""
    found = [context.siblings.find(replace(plan, artifact=name)) for name in outputs]
    if None in found:
        return []
    records: list[Record] = []
    for sibling, record in filter(None, found):
        with atomic(context.workspace.path(record.artifact)) as temporary:
            link_or_copy(sibling.path(record.artifact), temporary)
        runs = {"mlflow_run": plan.mlflow_run, "prefect_run": plan.prefect_run}
        records.append(replace(record, taken_from=sibling.name, **runs))
    return records


def _carry_out(step: Step, context: Context, plan: Record, sections: Sections) -> list[Record]:
    """Run the step's function and give its results their names; says what to record."""
    path = context.workspace.path
    outputs = step.outputs(plan.iteration)
    started = time.perf_counter()
    with ExitStack() as stack:
        temporary = {name: stack.enter_context(atomic(path(name))) for name in outputs}
        job = Job(
            iteration=plan.iteration,
            seed=plan.seed,
            inputs={name: path(name) for name in plan.inputs},
            outputs=temporary,
            params=sections,
            resources=context.resources,
            observed=plan.observed,
        )
        with _memory_named(step.name):
            metrics = step.run(job)
        if not step.view:
            _refuse_different(context, temporary)
    plan = replace(
        plan,
        metrics=metrics,
        seconds=time.perf_counter() - started,
        code=code_version(),
        packages=package_versions(),
    )
    return [replace(plan, artifact=name, hash=content_hash(path(name))) for name in outputs]


def _refuse_different(context: Context, made: Mapping[str, Path]) -> None:
    """Raise UserError where an output that stands came out differently beside a missing one."""
    path = context.workspace.path
    for name, temporary in made.items():
        record = context.lineage.get(name)
        if record and path(name).exists() and content_hash(temporary) != record.hash:
            raise UserError(
                f"{path(name)}: came out differently when what is missing beside it was made "
                "again; put that back, or remove this too"
            )


@contextmanager
def _memory_named(step: str) -> Iterator[None]:
    """Memory that ran out becomes one line; the libraries have no common exception for it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or any(word in text for word in NO_MEMORY):
            raise WorkError(
                f"step {step}: out of memory ({text[:120] or 'no more'}); lower "
                "engine.memory, engine.columns or update.micro_batch_tokens; run again to go on"
            ) from error
        raise


def verified_hash(context: Context, artifact: str) -> str:
    """Hash of an artifact that is whole and is what its record says."""
    path = context.workspace.path(artifact)
    record = _record(context, artifact)
    if not path.exists():
        may_go = record and record.iteration and path.parent.name == "policy"
        how = let_go(record) if record and may_go else "missing; run the step that makes it first"
        raise UserError(f"{path}: {how}")
    try:
        found = content_hash(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if record is None:
        raise UserError(f"{path}: {FILE} does not say what made it")
    if record.hash != found:
        raise UserError(
            f"{path}: corrupt or changed: its content is {found}, recorded is {record.hash}; "
            "restore it, or remove it to have it made again"
        )
    return found


def let_go(policy: Record) -> str:
    """What became of a policy that is recorded and not there, and how to have it again."""
    return (
        "let go by retention; run its experiment again with "
        f"--set checkpoints.keep_every={policy.iteration} to have it made again"
    )


def _record(context: Context, artifact: str) -> Record | None:
    """What made an artifact: of another run's, its own lineage knows."""
    if not is_foreign(artifact):
        return context.lineage.get(artifact)
    path = context.workspace.path(artifact).resolve()
    root = next((folder for folder in path.parents if (folder / FILE).is_file()), None)
    return Lineage(root).get(path.relative_to(root).as_posix()) if root else None


def is_foreign(artifact: str) -> bool:
    """Whether an artifact lies outside of the folder of the run that reads it."""
    return artifact.startswith("../")


def _standing(context: Context, artifact: str, wanted: Record) -> Record | None:
    """The record of an artifact that stands as it should; None where it must be made."""
    path = context.workspace.path(artifact)
    record = context.lineage.get(artifact)
    if record is None:
        return None
    if not path.exists():
        fits = record.params == wanted.params and record.inputs.items() >= wanted.inputs.items()
        return record if fits and context.keeping.expendable(artifact, context.lineage) else None
    verified_hash(context, artifact)
    refuse_other_params(path, record, wanted.params)
    for name, digest in wanted.inputs.items():
        if record.inputs.get(name) != digest:
            raise UserError(
                f"{path}: was made from another {name}; remove it to have it made again"
            )
    refuse_other_files(path, record)
    return record


def _standing_view(context: Context, artifact: str, wanted: Record) -> Record | None:
    """The record of a view that is up to date; None where it must be made again."""
    path = context.workspace.path(artifact)
    record = context.lineage.get(artifact)
    if record is None or not path.exists() or content_hash(path) != record.hash:
        return None
    same = record.inputs == wanted.inputs and record.params == wanted.params
    return record if same else None


def refuse_other_files(path: Path, record: Record) -> None:
    """Raise UserError naming the first of the user's files that has changed since it was read.

    One that is gone is not needed any more.
    """
    now = _file_hashes(map(Path, record.files))
    for name, digest in record.files.items():
        if now.get(name, digest) != digest:
            raise UserError(
                f"{path}: was made before {name} changed; put the file back, give another "
                "--runs-dir, or remove what was made before"
            )


def refuse_other_params(path: Path, record: Record, values: Mapping[str, Any]) -> None:
    """Raise UserError naming the first parameter that is not what the artifact was made with."""
    if record.params == values:
        return
    before, now = flatten(record.params), flatten(values)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise UserError(
                f"{path}: was made with {key} = {before.get(key)!r}, now {now.get(key)!r}; "
                "give another --runs-dir, or remove what was made before"
            )
