"""Parameters from YAML: single inheritance by `extends:`, `--set a.b=c`, errors that help.

Modules named in `plugins` are imported first, so that the policies they register can be named.
Everything wrong here is the user's to mend, so everything raises `UserError` with one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from os.path import isfile
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from treepo.errors import UserError
from treepo.params import (
    SECRET,
    BenchmarkRunParams,
    EfficiencyParams,
    ExperimentParams,
    PolicyRunParams,
    WholeParams,
    merge,
)
from treepo.plugins import BUILT_IN, import_plugins
from treepo.recipes import DATASETS, Recipes
from treepo.registry import REGISTRIES, Registry

Model = TypeVar("Model", bound=BaseModel)
Run = TypeVar("Run", ExperimentParams, BenchmarkRunParams, EfficiencyParams)
PARAMS = Path("params")  # where a project keeps them
PLACEHOLDER = "NAME"  # in a described key: a name that the user chooses
# Where a tree's parameters may stand, besides the arms of an efficiency experiment.
TREES = ("sampling.", "evaluation.tree.")


def file_of(model: type[WholeParams], name: str, folder: Path = PARAMS) -> Path:
    """Where the parameters of that kind and name are: an experiment's in FOLDER/NAME.yaml."""
    return folder / model.folder / f"{name}.yaml"


def load_experiment(file: Path, overrides: Sequence[str] = ()) -> ExperimentParams:
    """One experiment, as `load` reads it."""
    return load(ExperimentParams, file, overrides)


def load(model: type[Run], file: Path, overrides: Sequence[str] = ()) -> Run:
    """Read the parameters in a file, with what it extends, and apply `a.b=c` overrides.

    Raises UserError naming the file and key for anything unreadable, unknown or out of range.
    """
    values = read_values(file, model.kind)
    for override in overrides:
        _apply(values, override)
    where = f"{file}{' with --set' if overrides else ''}"
    values = with_recipes(values, file.parent.parent if model.folder else file.parent)
    return checked(validate(model, values, where), where)


def experiment_of(values: Mapping[str, Any], where: str, folder: Path = PARAMS) -> ExperimentParams:
    """The experiment of these values, validated and checked. folder: where its recipes lie."""
    return checked(validate(ExperimentParams, with_recipes(values, folder), where), where)


def checked(params: Run, where: str) -> Run:
    """The same, once its plugins are imported and its policies are known.

    Raises UserError with `where` and the key for anything unknown or contradictory.
    """
    try:
        import_plugins((*BUILT_IN, *params.plugins))
        check_policies(params)
        if isinstance(params, ExperimentParams):
            _check_staleness(params)
        elif not params.benchmarks:
            raise UserError("benchmarks: names none")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return params


def _check_staleness(params: ExperimentParams) -> None:
    """Not the model's own check: a record of lineage holds single sections, which must validate."""
    if params.rollout.staleness and params.update.importance_cap is None:
        raise UserError("rollout.staleness needs update.importance_cap, which corrects for it")
    if params.rollout.staleness and params.update.mismatch_limit is not None:
        raise UserError(
            "rollout.staleness needs update.mismatch_limit: null, as an older policy is meant to "
            "differ from the trainer's"
        )


def with_recipes(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The values with the recipes of `folder`/datasets in the place of their names.

    Sources in `data` and in `benchmarks` may name one. What the recipe to train on says of prompts
    holds where `data` itself says nothing. Raises UserError for a recipe that cannot be read, or a
    name that nearly names one.
    """
    recipes = Recipes(folder / DATASETS, lambda file: read_values(file, "recipe"))
    written = dict(values)
    if isinstance(data := values.get("data"), dict):
        written["data"] = recipes.into_data(data)
    if isinstance(benchmarks := values.get("benchmarks"), dict):
        written["benchmarks"] = recipes.into_benchmarks(benchmarks, values.get("prompts"))
    return written


def load_section(section: type[Model], overrides: Sequence[str]) -> Model:
    """One section alone, from its defaults and `key=value` overrides."""
    values: dict[str, Any] = {}
    for override in overrides:
        _apply(values, override)
    return validate(section, values, "--set")


def validate(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Build `model`, turning the first pydantic error into one line."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = [str(part) for part in first["loc"]]
        key = ".".join(location) or "(top level)"
        if first["type"] == "extra_forbidden":
            hint = _nearest(location, model)
            raise UserError(f"{where}: unknown parameter '{key}'{hint}") from None
        # A union adds its branch to the location, such as 'constrained-int'; keys are identifiers.
        key = ".".join(part for part in location if part.isidentifier()) or "(top level)"
        message = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] == SECRET else f" (got {first['input']!r:.80})"
        raise UserError(f"{where}: {key}: {message}{got}") from None


def check_policies(params: ExperimentParams | PolicyRunParams) -> None:
    """Raise UserError where a policy is unknown, or a parameter that it needs is not given.

    Also where one is given that only another policy reads.
    """
    entries = list(describe(params))
    values = {entry.key: entry.value for entry in entries}
    changed = {entry.key for entry in entries if entry.changed}
    arms = params.arms if isinstance(params, EfficiencyParams) else ()
    places = (*TREES, *(f"arms.{name}.sampling." for name in arms))
    for name, registry in REGISTRIES.items():
        for key in dict.fromkeys(name.replace(TREES[0], place, 1) for place in places):
            _check_policy(key, registry, values, changed)


def _check_policy(
    key: str, registry: Registry[Any], values: Mapping[str, Any], changed: set[str]
) -> None:
    value = values.get(key, ())
    for name in (value,) if isinstance(value, str) else value:
        if registry.paths and ":" in name:
            continue  # a user's own function, looked for where it is used
        registry.get(name)
        needed = registry.needs(name)
        section = key.rpartition(".")[0]
        if needed is not None and values.get(f"{section}.{needed}") is None:
            raise UserError(f"{key}: '{name}' needs {section}.{needed}")
        for parameter in registry.private:
            unread = f"{section}.{parameter}"
            if needed != parameter and unread in changed:
                raise UserError(f"{unread} is set, and {key} '{name}' does not read it; unset it")


def read_values(
    file: Path, kind: str = "experiment", below: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """What a file and those that it extends say, not yet validated.

    Raises UserError naming the file where it is missing (`kind`: what it was to hold), is not YAML
    or no mapping, or where `extends` leads nowhere.
    """
    if file.resolve() in below:
        raise UserError(f"{file}: 'extends' leads back to itself")
    try:
        content = parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(_missing(file, kind)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"{file}: must hold a mapping of parameters at the top level")
    values: dict[str, Any] = {str(key): value for key, value in content.items()}
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str) or Path(parent).name != parent:
        raise UserError(f"{file}: extends: must name one file of the same folder")
    above = file.parent / f"{parent}.yaml"
    if not isfile(above):  # unlike the path's own method it takes any name, however long
        raise UserError(f"{file}: extends: {_missing(above, kind)}")
    return merge(read_values(above, kind, (*below, file.resolve())), values)


def parse(text: str) -> Any:
    """What YAML says. Raises yaml.YAMLError, also for a date or number that there is not."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice in one mapping."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in seen:
                raise _wrong(key, f"'{key.value}' is there twice")
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError):  # from constructors of values
            kind = node.tag.rpartition(":")[2]
            raise _wrong(node, f"'{node.value}' is no {kind}") from None


def _wrong(node: yaml.Node, reason: str) -> yaml.YAMLError:
    line = node.start_mark.line + 1
    return yaml.constructor.ConstructorError(None, None, f"line {line}: {reason}")


def _missing(file: Path, kind: str) -> str:
    names = sorted(other.stem for other in file.parent.glob("[!_]*.yaml"))
    close = difflib.get_close_matches(file.stem, names, 1)
    hint = (
        f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(names) or 'none'}"
    )
    return f"{file}: no such {kind}{hint}"


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: must be key=value")
    try:
        value = parse(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not valid YAML") from None
    assign(values, key.strip(), value)


def assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b` of nested mappings, making those that are missing; inner ones are copied first."""
    *sections, last = key.split(".")
    for section in sections:
        inner = values.get(section)
        values[section] = inner = dict(inner) if isinstance(inner, dict) else {}
        values = inner
    values[last] = value


def _nearest(location: Sequence[str], model: type[BaseModel]) -> str:
    """A hint at the valid name that was probably meant, from anywhere in the tree of parameters."""
    names = [entry.key for entry in describe(model)]
    leaves = {name.rpartition(".")[2]: name for name in reversed(names)}
    by_leaf = difflib.get_close_matches(location[-1], leaves, 1, 0.7)
    by_name = difflib.get_close_matches(".".join(location), names, 1, 0.5)
    same_section = [name for name in by_name if name.rpartition(".")[0] == ".".join(location[:-1])]
    best = same_section or [leaves[leaf] for leaf in by_leaf] or by_name
    if not best:
        return "; 'treepo params' lists all"
    # Where the user chooses names, the description has a placeholder.
    parts = zip_longest(best[0].split("."), location[:-1])
    meant = [given if given and part == PLACEHOLDER else part for part, given in parts if part]
    return f"; did you mean '{'.'.join(meant)}'?"


@dataclass(frozen=True)
class Described:
    """One parameter: dotted key, value, description, and the section that defines it."""

    key: str
    value: Any
    description: str
    section: type[BaseModel]

    @property
    def changed(self) -> bool:
        """Whether the value is another than the default."""
        field = self.section.model_fields[self.key.rpartition(".")[2]]
        return field.is_required() or self.value != field.default


def describe(model: type[BaseModel] | BaseModel, prefix: str = "") -> Iterator[Described]:
    """Every parameter of a model (defaults) or an instance (values), sections flattened."""
    kind = model if isinstance(model, type) else type(model)
    for name, info in kind.model_fields.items():
        default = "(required)" if info.is_required() else info.default
        value: Any = default if isinstance(model, type) else getattr(model, name)
        key = f"{prefix}{name}"
        sections = _sections(key, value, info.annotation)
        if not sections or value is None:
            yield Described(key, value, info.description or "", kind)
        for below, section in sections.items():
            yield from describe(section, f"{below}.")


def _sections(key: str, value: Any, annotation: Any) -> Mapping[str, BaseModel | type[BaseModel]]:
    """What is below a parameter, by key: its section, or one section for each name."""
    if isinstance(value, BaseModel):
        return {key: value}
    if isinstance(value, dict) and value:
        entries: dict[str, Any] = value
        return {f"{key}.{n}": part for n, part in entries.items() if isinstance(part, BaseModel)}
    # What may be a section or something else, such as a name, is described as one value.
    kinds = {kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)}
    sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
    is_dict = get_origin(annotation) is dict
    if len(sections) != 1 or (not is_dict and kinds - {NoneType, *sections}):
        return {}
    return {f"{key}.{PLACEHOLDER}" if is_dict else key: sections[0]}
