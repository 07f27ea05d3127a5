"""`treepo params`: every parameter, with all that a name can choose."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from flows.progress import console
from treepo.loading import PARAMS, describe, load
from treepo.params import BenchmarkRunParams, EfficiencyParams, ExperimentParams
from treepo.plugins import BUILT_IN, import_plugins
from treepo.registry import REGISTRIES

# What files below params/ hold, by their folder.
KINDS = {model.folder: model for model in (BenchmarkRunParams, EfficiencyParams)}


def show_params(name: str | None) -> None:
    """Print every parameter, its value and meaning, with all that a name can choose.

    Of an evaluation or a measurement of speed where the file is one.
    """
    model = KINDS.get(Path(name or "").parent.name, ExperimentParams)
    source = load(model, PARAMS / f"{name}.yaml") if name else model
    import_plugins(BUILT_IN)
    table = Table("parameter", "value", "meaning", box=None, pad_edge=False)
    for entry in describe(source):
        table.add_row(entry.key, json.dumps(entry.value), entry.description)
        for name, meaning in REGISTRIES[entry.key].describe() if entry.key in REGISTRIES else ():
            table.add_row("", f"  {name}", f"  {meaning}")
    console.print(table)
