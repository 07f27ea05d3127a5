"""Registries: small named functions at the points meant for extension.

A registry belongs to one parameter, whose value is the name. `REGISTRIES` finds it by that
parameter's dotted key, so that names are checked and listed without knowing who registered them.
"""

from __future__ import annotations

import difflib
import inspect
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar

from treepo.errors import UserError, WorkError

Entry = TypeVar("Entry")
Given = ParamSpec("Given")
Result = TypeVar("Result")

REGISTRIES: dict[str, Registry[Any]] = {}


class Registry(Generic[Entry]):
    """Names to functions, for one parameter; `key` is that parameter's dotted name.

    paths: the parameter also takes a user's own function, as package.module:function. documented:
    what of an entry has the docstring that says what it does. private: parameters of the same
    section that only those entries read which need them.
    """

    def __init__(
        self,
        key: str,
        paths: bool = False,
        documented: Callable[[Entry], Any] = lambda entry: entry,
        private: tuple[str, ...] = (),
    ) -> None:
        self.key = key
        self.paths = paths
        self.private = private
        self._documented = documented
        self._entries: dict[str, Entry] = {}
        self._needs: dict[str, str] = {}
        REGISTRIES[key] = self

    def register(self, name: str, needs: str | None = None) -> Callable[[Entry], Entry]:
        """Decorator that adds a function under `name`.

        needs: a parameter of the same section, without which the function makes no sense.
        Raises UserError where another function has the name already.
        """

        def add(entry: Entry) -> Entry:
            if name in self._entries:
                raise UserError(f"{self.key}: '{name}' is registered already; choose another name")
            self._entries[name] = entry
            if needs is not None:
                self._needs[name] = needs
            return entry

        return add

    def get(self, name: str) -> Entry:
        """The function of that name. Raises UserError with the nearest valid name."""
        if name in self._entries:
            return self._entries[name]
        close = difflib.get_close_matches(name, self._entries, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(self)}"
        raise UserError(f"{self.key}: unknown '{name}'; {hint}")

    def needs(self, name: str) -> str | None:
        """The parameter of the same section that this entry needs, if it needs one."""
        return self._needs.get(name)

    def describe(self) -> Iterator[tuple[str, str]]:
        """Each name with the first line of its function's docstring."""
        for name, entry in self._entries.items():
            yield name, (inspect.getdoc(self._documented(entry)) or "").split("\n")[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def call(
    registry: Registry[Callable[Given, Result]],
    name: str,
    *args: Given.args,
    **kwargs: Given.kwargs,
) -> Result:
    """What the function of that name gives, which may be a user's own.

    Raises UserError that says where it failed; memory that runs out is no fault of the function.
    """
    try:
        return registry.get(name)(*args, **kwargs)
    except (UserError, WorkError, MemoryError):
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{registry.key}: '{name}' failed at {at.filename}:{at.lineno} ({reason})"
        ) from error
