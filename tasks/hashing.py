"""Content hashes, the same as DVC's: md5 of a file, md5 of the sorted listing of a folder.

A file that did not change since it was hashed is not read again: in this process, nor in a later
one where the hashes are remembered in a file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Identity = tuple[int, int, int, int]
# By what stays the same when a file gets its final name: device, inode, size, time of change.
_known: dict[Identity, str] = {}
_memories: list[Path] = []  # where new hashes are written; the last one counts


def content_hash(path: Path) -> str:
    """Hash of a file or (ending in `.dir`) of a folder. Raises OSError where it is unreadable."""
    if not path.is_dir():
        return _file_hash(str(path))
    return listing_hash(
        [{"md5": _file_hash(file), "relpath": name} for file, name in _files(str(path), "")]
    )


def listing_hash(entries: list[dict[str, str]]) -> str:
    """Hash of a folder with these files: md5 and relpath each, in any order."""
    listing = sorted(entries, key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"


@contextmanager
def remembered(file: Path) -> Iterator[None]:
    """Know what `file` remembers, and write into it what is found out within the block.

    A memory that is damaged, or cannot be written, costs time only.
    """
    with suppress(OSError):
        for line in file.read_text(encoding="ascii", errors="replace").split("\n")[:-1]:
            with suppress(ValueError):
                *identity, digest = line.split(" ")
                device, inode, size, changed = map(int, identity)
                _known[(device, inode, size, changed)] = digest
    _memories.append(file)
    try:
        yield
    finally:
        _memories.pop()


def _files(folder: str, prefix: str) -> Iterator[tuple[str, str]]:
    """All files below a folder, with their names relative to it."""
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield entry.path, f"{prefix}{entry.name}"


def _file_hash(path: str) -> str:
    status = os.stat(path)
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _known:
        with open(path, "rb") as file:
            _known[key] = hashlib.file_digest(
                file, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
        _remember(key)
    return _known[key]


def _remember(key: Identity) -> None:
    if _memories:
        with suppress(OSError), _memories[-1].open("a", encoding="ascii") as file:
            file.write(" ".join([*map(str, key), _known[key]]) + "\n")
