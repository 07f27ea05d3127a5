"""Recipes: files of params/datasets that say where a set of problems comes from, by name.

It knows which keys of a recipe belong to the set and which to the prompts made of it. It knows no
set's rows: `treepo.data` reads them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from treepo.errors import UserError
from treepo.params import GENERATED

# The folder beside the experiments where recipes lie.
DATASETS = "datasets"
# Keys of `data` that a recipe may set, too.
SETTINGS = ("prompt", "chat", "max_prompt_tokens", "families", "gold")
# How near to a recipe's name another name must be to be taken for a slip.
LIKENESS = 0.75


class Recipes:
    """The recipes of one folder; `read` gives the values of a file with what it extends."""

    def __init__(self, folder: Path, read: Callable[[Path], dict[str, Any]]) -> None:
        self._folder = folder
        self._read = read

    def into_data(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """A `data` section with the recipes in the place of their names."""
        settings: dict[str, Any] = {}
        written = dict(data)
        for key in ("source", "heldout_source"):
            if recipe := self._recipe(data.get(key)):
                own, written[key] = _parts(recipe)
                settings = own if key == "source" else settings
        if isinstance(excluded := data.get("exclude"), list):
            written["exclude"] = [self._dataset(one) for one in excluded]
        return {**settings, **written}

    def into_benchmarks(self, benchmarks: Mapping[str, Any]) -> dict[str, Any]:
        """The benchmarks of an evaluation with the recipes in the place of their sources."""
        return {
            name: {**one, "source": self._dataset(one["source"])}
            if isinstance(one, dict) and "source" in one
            else one
            for name, one in benchmarks.items()
        }

    def _dataset(self, name: object) -> object:
        recipe = self._recipe(name)
        return _parts(recipe)[1] if recipe else name

    def _recipe(self, name: object) -> dict[str, Any] | None:
        """What the recipe of that name says; None where the name is not a recipe's."""
        if not isinstance(name, str):
            return None
        names = [file.stem for file in self._folder.glob("*.yaml")]
        if name in names:
            return {"name": name, **self._read(self._folder / f"{name}.yaml")}
        close = difflib.get_close_matches(name, [*names, GENERATED], 1, LIKENESS)
        if close and name != GENERATED and not Path(name).exists():
            raise UserError(f"{self._folder}: no recipe '{name}'; did you mean '{close[0]}'?")
        return None


def _parts(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | str]:
    """What a recipe says of prompts and tasks, and its dataset: generated where it names tasks."""
    own = {key: value for key, value in recipe.items() if key in SETTINGS}
    rest = {key: value for key, value in recipe.items() if key not in SETTINGS}
    return own, GENERATED if "families" in own else rest
