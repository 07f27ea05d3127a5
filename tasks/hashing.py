"""Content hashes, the same as DVC's: md5 of a file, md5 of the sorted listing of a folder.

A file that did not change since it was hashed in this process is not read again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

# By what stays the same when a file gets its final name: device, inode, size, time of change.
_known: dict[tuple[int, int, int, int], str] = {}


def content_hash(path: Path) -> str:
    """Hash of a file or (ending in `.dir`) of a folder. Raises OSError where it is unreadable."""
    if not path.is_dir():
        return _file_hash(path)
    listing = [
        {"md5": _file_hash(file), "relpath": file.relative_to(path).as_posix()}
        for file in path.rglob("*")
        if file.is_file()
    ]
    return listing_hash(listing)


def listing_hash(entries: list[dict[str, str]]) -> str:
    """Hash of a folder with these files: md5 and relpath each, in any order."""
    listing = sorted(entries, key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _file_hash(path: Path) -> str:
    status = path.stat()
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _known:
        with path.open("rb") as file:
            _known[key] = hashlib.file_digest(
                file, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
    return _known[key]
