"""The plan of an ablation: from axes and seeds to runs, each with complete parameters.

Knows parameters and their files; must not know artifacts or how a run is carried out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from treepo.ablation.stopping import RULES
from treepo.errors import UserError
from treepo.loading import PARAMS, assign, experiment_of, file_of, read_values, validate
from treepo.params import ExperimentParams, merge
from treepo.params.ablation import AblationParams, AxesParams

_TOP = ("description", "seed")  # not what a variant is about


@dataclass(frozen=True)
class Variant:
    """One way to run the experiment.

    parts: its place on each kind of axis; settings: dotted key -> value, on top of the base.
    """

    parts: tuple[str, ...]
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Label of the variant and of its folders."""
        return "_".join(self.parts)


@dataclass(frozen=True)
class Run:
    """One variant with one seed, and all of its parameters."""

    variant: str
    seed: int
    params: ExperimentParams

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.variant}-s{self.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs of an ablation, seed by seed, so that comparisons are whole as early as may be."""

    name: str
    params: AblationParams
    variants: tuple[Variant, ...]
    runs: tuple[Run, ...]

    @property
    def references(self) -> dict[str, str]:
        """For each variant, the one that it is compared with, which may be itself.

        Where the reference names a place on one axis, a variant is compared with the one that has
        this place there and its own on the other axes.
        """
        wanted = self.params.reference or self.variants[0].name
        if wanted in [variant.name for variant in self.variants]:
            return {variant.name: wanted for variant in self.variants}
        axis = next(
            variant.parts.index(wanted) for variant in self.variants if wanted in variant.parts
        )
        return {
            variant.name: "_".join((*variant.parts[:axis], wanted, *variant.parts[axis + 1 :]))
            for variant in self.variants
        }


def load_plan(name: str, folder: Path = PARAMS) -> Plan:
    """Read FOLDER/ablations/NAME.yaml in its first size and expand it; NAME-SIZE: in that size.

    Raises UserError naming the file and key for whatever is unknown, missing, uneven or twice.
    """
    file, size = _file_and_size(folder, name)
    values, size = _sized(file, read_values(file, AblationParams.kind), size)
    params = validate(AblationParams, values, str(file))
    base = _base_values(file, folder, params)
    found = variants(params.axes, str(file))
    runs = [
        Run(variant.name, seed, _experiment(base, variant, seed, str(file)))
        for seed in params.seeds
        for variant in found
    ]
    full_name = f"{file.stem}-{size}" if size else file.stem
    plan = Plan(full_name, params, tuple(found), tuple(runs))
    _refuse_twins(plan, str(file))
    _refuse_unknown_names(plan, str(file))
    return plan


def _file_and_size(folder: Path, name: str) -> tuple[Path, str | None]:
    file = file_of(AblationParams, name, folder)
    stem, dash, size = name.rpartition("-")
    whole = file.with_name(f"{stem}.yaml")
    return (whole, size) if dash and not file.exists() and whole.exists() else (file, None)


def _sized(
    file: Path, values: dict[str, Any], size: str | None
) -> tuple[dict[str, Any], str | None]:
    """The values of one size, which go on top of what all sizes share."""
    sizes: Any = values.pop("sizes", {})
    if not isinstance(sizes, dict) or not all(isinstance(s, dict) for s in sizes.values()):
        raise UserError(f"{file}: sizes: must map a size to the keys that it sets")
    if size is None:
        size = next(iter(sizes), None)
    if size is None:
        return values, None
    if size not in sizes:
        known = ", ".join(map(str, sizes)) or "none"
        raise UserError(f"{file}: sizes: there is no '{size}'; there are: {known}")
    return merge(values, sizes[size]), size


def _base_values(file: Path, folder: Path, params: AblationParams) -> dict[str, Any]:
    base = file_of(ExperimentParams, params.base, folder)
    try:
        values = read_values(base)
    except UserError as error:
        raise UserError(f"{file}: base: {error}") from None
    for key, value in params.set.items():
        assign(values, key, value)
    experiment_of(values, f"{file}: set, on {base.name}")
    return values


def variants(axes: AxesParams, where: str) -> list[Variant]:
    """All variants of the axes. Raises UserError naming `where` and the axis."""
    kinds = [kind for kind in (_grid(axes, where), _zip(axes, where), _listed(axes)) if kind]
    if not kinds:
        raise UserError(f"{where}: axes: give at least one of grid, zip, list")
    found = [reduce(_combine, parts) for parts in itertools.product(*kinds)]
    names = [variant.name for variant in found]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: axes: the variant '{name}' appears twice")
    return found


def _combine(one: Variant, other: Variant) -> Variant:
    return Variant((*one.parts, *other.parts), {**one.settings, **other.settings})


def _grid(axes: AxesParams, where: str) -> list[Variant]:
    _refuse_empty(axes.grid, f"{where}: axes.grid")
    return [
        _labelled(dict(zip(axes.grid, values, strict=True)))
        for values in itertools.product(*axes.grid.values())
        if values
    ]


def _zip(axes: AxesParams, where: str) -> list[Variant]:
    _refuse_empty(axes.zip, f"{where}: axes.zip")
    lengths = {key: len(values) for key, values in axes.zip.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise UserError(f"{where}: axes.zip: all keys need the same number of values: {told}")
    return [
        _labelled(dict(zip(axes.zip, values, strict=True)))
        for values in zip(*axes.zip.values(), strict=True)
    ]


def _listed(axes: AxesParams) -> list[Variant]:
    return [Variant((variant.name,), variant.set) for variant in axes.list]


def _refuse_empty(axis: Mapping[str, Sequence[Any]], where: str) -> None:
    for key, values in axis.items():
        if not values:
            raise UserError(f"{where}: {key} has no values")


def _labelled(settings: dict[str, Any]) -> Variant:
    """A variant named by its values: `width-8_segment_length-4`, fit for a folder."""
    values = {key: re.sub(r"[^A-Za-z0-9_.+-]+", "-", str(v)) for key, v in settings.items()}
    parts = [f"{key.rpartition('.')[2]}-{value.strip('-')}" for key, value in values.items()]
    return Variant(("_".join(parts),), settings)


def _experiment(
    base: Mapping[str, Any], variant: Variant, seed: int, where: str
) -> ExperimentParams:
    values = dict(base)
    for key, value in variant.settings.items():
        assign(values, key, value)
    values["seed"] = seed
    return experiment_of(values, f"{where}: variant '{variant.name}'")


def differences(plan: Plan, run: Run) -> dict[str, Any]:
    """Parameters that a run and its reference were given differently: the value of the run."""
    settings = {variant.name: variant.settings for variant in plan.variants}
    name = plan.references[run.variant]
    reference = next(other for other in plan.runs if other.variant == name)
    own, theirs = settings[run.variant], settings[name]
    values = {key: own.get(key, _value(run.params, key)) for key in {**theirs, **own}}
    return {
        key: value
        for key, value in values.items()
        if value != theirs.get(key, _value(reference.params, key))
    }


def _value(params: ExperimentParams, key: str) -> Any:
    """The value of a dotted key; None where the section that would hold it is null."""
    value: Any = params.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _refuse_twins(plan: Plan, where: str) -> None:
    """Two variants with the same parameters would be one run under two names."""
    seeds = plan.params.seeds
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise UserError(f"{where}: seeds: {seed} appears twice")
    named: dict[str, str] = {}
    for run in plan.runs[: len(plan.variants)]:
        twin = named.setdefault(run.params.model_dump_json(exclude=set(_TOP)), run.variant)
        if twin != run.variant:
            raise UserError(
                f"{where}: axes: the variants '{twin}' and '{run.variant}' have the same parameters"
            )


def _refuse_unknown_names(plan: Plan, where: str) -> None:
    wanted = plan.params.reference
    names = [variant.name for variant in plan.variants]
    places = [part for variant in plan.variants for part in variant.parts]
    if wanted and wanted not in (*names, *places):
        known = ", ".join(dict.fromkeys((*names, *places)))
        raise UserError(f"{where}: reference: there is no variant '{wanted}'; there are: {known}")
    for stop in plan.params.stop:
        try:
            RULES.get(stop.rule)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
