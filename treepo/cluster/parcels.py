"""Folders and files as values, so that they travel through Ray's object store.

Each file is one array of bytes: Ray keeps arrays in shared memory, where all processes of a
machine read the same copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

Parcel = Mapping[str, np.ndarray]
"""Bytes [uint8] of each file of a folder, by its path in there; of a file alone, under ''."""


def packed(path: Path, without: str | None = None) -> Parcel:
    """A folder or file as a parcel; `without`: a folder in it to leave out."""
    if path.is_file():
        return {"": np.fromfile(path, np.uint8)}
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    names = {file.relative_to(path).as_posix(): file for file in files}
    return {
        name: np.fromfile(file, np.uint8)
        for name, file in names.items()
        if name.partition("/")[0] != without
    }


def unpack(parcel: Parcel, path: Path) -> None:
    """Put a parcel's files where it is to be, over what is there."""
    for name, content in parcel.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        content.tofile(file)
