"""Plugins: a user's own modules, imported so that they can register policies.

Knows modules and files; knows nothing of what they register.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from treepo.errors import UserError

# What registers entries of its own.
BUILT_IN = ("treepo.advantages", "treepo.objective", "treepo.sampling", "treepo.schedules")


def import_plugins(names: Sequence[str]) -> None:
    """Import each module, or .py file (relative to the working directory), once.

    Raises UserError naming the one that cannot be imported.
    """
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file(Path(name))
            else:
                import_module(name)
        except UserError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"plugins: {name} cannot be imported ({reason})") from None


def sources(names: Sequence[str]) -> Iterator[Path]:
    """The files of plugins that were imported; a module without one is passed over."""
    for name in names:
        file = name if name.endswith(".py") else sys.modules[name].__file__
        if file is not None:
            yield Path(file)


def _import_file(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"plugins: {file}: no such file")
    path = file.resolve()
    name = f"treepo_plugin:{path}"
    if name in sys.modules:
        return
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
