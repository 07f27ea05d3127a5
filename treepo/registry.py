"""Registries: small named functions at the points meant for extension."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from treepo.errors import UserError

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """Names to functions, for one parameter; `key` is that parameter's name, for messages."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that adds a function under `name`."""

        def add(entry: Entry) -> Entry:
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> Entry:
        """The function of that name. Raises UserError with the nearest valid name."""
        if name in self._entries:
            return self._entries[name]
        close = difflib.get_close_matches(name, self._entries, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(self)}"
        raise UserError(f"{self.key}: unknown '{name}'; {hint}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def describe(self) -> dict[str, str]:
        """The first line of each entry's docstring, by name."""
        return {
            name: (inspect.getdoc(entry) or "").partition("\n")[0]
            for name, entry in self._entries.items()
        }
