"""Folders of an actor on its machine; those of actors that were killed are removed by the next one.

Each folder is locked by the process that it belongs to. The system ends a lock with its process, so
one that nobody holds is of nobody, also where processes do not see each other's ids.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from shutil import rmtree

PREFIX = "treepo-actor-"


class Scratch:
    """A folder of this process for others in it."""

    def __init__(self) -> None:
        _sweep()
        new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))  # nobody's, until it is locked
        self._held = _lock(new)
        self._root = new.rename(new.with_name(new.name.removeprefix(".")))

    def folder(self) -> Path:
        """A new folder."""
        return Path(tempfile.mkdtemp(dir=self._root))

    def close(self) -> None:
        """Remove all of them."""
        rmtree(self._root, ignore_errors=True)
        os.close(self._held)


def _sweep() -> None:
    """Remove the folders of processes that are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # held by another process, or of another user
            held = _lock(folder)
            rmtree(folder, ignore_errors=True)
            os.close(held)


def _lock(folder: Path) -> int:
    """Hold a folder as long as what this returns is open. Raises OSError where another does."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        raise
    return held
