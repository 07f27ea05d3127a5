"""Parameters from YAML: single inheritance by `extends:`, `--set a.b=c`, errors that help.

Everything wrong here is the user's to mend, so everything raises `UserError` with one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from treepo.errors import UserError
from treepo.params import GENERATED, ExperimentParams

# Recipes lie in this folder beside the experiments, and may set these keys of `data`, too.
DATASETS = "datasets"
RECIPE_SETTINGS = ("prompt", "chat", "max_prompt_tokens", "families", "gold")

Model = TypeVar("Model", bound=BaseModel)


def load_experiment(file: Path, overrides: Sequence[str] = ()) -> ExperimentParams:
    """Read one experiment, with what it extends, and apply `a.b=c` overrides.

    Raises UserError naming the file and key for anything unreadable, unknown or out of range.
    """
    values = _read(file, ())
    for override in overrides:
        _apply(values, override)
    if isinstance(data := values.get("data"), dict):
        values["data"] = with_recipes(data, file.parent / DATASETS)
    where = f"{file}{' with --set' if overrides else ''}"
    return validate(ExperimentParams, values, where)


def with_recipes(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A `data` section with the recipes of `folder` in the place of their names.

    What the recipe to train on says of prompts holds where `data` itself says nothing. Raises
    UserError for a recipe that cannot be read, or a name that nearly names one.
    """
    settings: dict[str, Any] = {}
    written = dict(data)
    for key in ("source", "heldout_source"):
        recipe = _recipe(data.get(key), folder)
        if recipe is not None:
            own, written[key] = _parts(recipe)
            settings = own if key == "source" else settings
    if isinstance(excluded := data.get("exclude"), list):
        recipes = [(one, _recipe(one, folder)) for one in excluded]
        written["exclude"] = [_parts(recipe)[1] if recipe else one for one, recipe in recipes]
    return {**settings, **written}


def _recipe(name: object, folder: Path) -> dict[str, Any] | None:
    """What the recipe of that name says; None where the name is not a recipe's."""
    if not isinstance(name, str):
        return None
    names = [file.stem for file in folder.glob("*.yaml")]
    if name in names:
        return {"name": name, **_read(folder / f"{name}.yaml", ())}
    close = difflib.get_close_matches(name, [*names, GENERATED], 1, 0.75)
    if close and name != GENERATED and not Path(name).exists():
        raise UserError(f"{folder}: no recipe '{name}'; did you mean '{close[0]}'?")
    return None


def _parts(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | str]:
    """What a recipe says of prompts and tasks, and its dataset: generated where it names tasks."""
    own = {key: value for key, value in recipe.items() if key in RECIPE_SETTINGS}
    rest = {key: value for key, value in recipe.items() if key not in RECIPE_SETTINGS}
    return own, GENERATED if "families" in own else rest


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
        raise UserError(f"{where}: {key}: {message} (got {first['input']!r:.80})") from None


def _read(file: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    if file.resolve() in below:
        raise UserError(f"{file}: 'extends' leads back to itself")
    try:
        content: Any = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise UserError(_missing(file)) from None
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
    if not isinstance(parent, str):
        raise UserError(f"{file}: extends: must name one file of the same folder")
    return _merge(_read(file.parent / f"{parent}.yaml", (*below, file.resolve())), values)


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                where = f"line {key_node.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(
                    None, None, f"{where}: '{key}' is there twice"
                )
            seen.add(str(key))
        return super().construct_mapping(node, deep)


def _missing(file: Path) -> str:
    names = sorted(other.stem for other in file.parent.glob("*.yaml"))
    close = difflib.get_close_matches(file.stem, names, 1)
    hint = (
        f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(names) or 'none'}"
    )
    return f"{file}: no such experiment{hint}"


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`; mappings merge key by key, but data.families is taken as a whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping) and key != "families":
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override}: must be key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not valid YAML") from None
    *sections, last = key.strip().split(".")
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
    return f"; did you mean '{best[0]}'?" if best else "; 'treepo params' lists all"


@dataclass(frozen=True)
class Described:
    """One parameter: dotted key, value, description."""

    key: str
    value: Any
    description: str


def describe(model: type[BaseModel] | BaseModel, prefix: str = "") -> Iterator[Described]:
    """Every parameter of a model (defaults) or an instance (values), sections flattened."""
    kind = model if isinstance(model, type) else type(model)
    for name, info in kind.model_fields.items():
        value: Any = info.default if isinstance(model, type) else getattr(model, name)
        key = f"{prefix}{name}"
        section = _section_type(value, info.annotation)
        if section is None or value is None:
            yield Described(key, value, info.description or "")
        if section is not None:
            yield from describe(value if isinstance(value, BaseModel) else section, f"{key}.")


def _section_type(value: Any, annotation: Any) -> type[BaseModel] | None:
    if isinstance(value, BaseModel):
        return type(value)
    candidates = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    if len(candidates) == 1 and isinstance(candidates[0], type):
        return candidates[0] if issubclass(candidates[0], BaseModel) else None
    return None
