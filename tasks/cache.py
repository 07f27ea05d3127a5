"""Objects of removed artifacts in DVC's cache.

DVC keeps a folder as a listing of its files' hashes. The hash that lineage gives an artifact is
that of its own part of such a listing, so an artifact is recognised in listings of any age, also
when it is long gone from the workspace. An object goes only if no listing names it otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tasks.hashing import listing_hash

LOCK = Path("dvc.lock")
_POLICY = re.compile(r"(?:.*/policy/|policy/|)\d{6}/")
Entry = dict[str, str]


@dataclass(frozen=True)
class Cache:
    """A project's cache of DVC objects: FOLDER/ab/cdef..., by md5."""

    folder: Path

    @classmethod
    def of_project(cls) -> Cache | None:
        """The cache inside the working directory's project; None where it is shared or missing."""
        folder = Path(".dvc/cache/files/md5")
        configured = any("[cache]" in text and "dir =" in text for text in _configurations())
        return cls(folder) if folder.is_dir() and not configured else None

    def unneeded(self, gone: Collection[str], runs: Collection[str]) -> list[Path]:
        """Objects that only artifacts with these hashes need.

        runs: names whose artifacts are gone; what dvc.lock says of other runs' is needed.
        """
        going: set[str] = set()
        needed = set(self._locked(runs))
        for listing in self.folder.glob("*/*.dir"):
            for prefix, entries in _parts(json.loads(listing.read_text())).items():
                is_gone = bool(prefix) and listing_hash(entries) in gone
                (going if is_gone else needed).update(entry["md5"] for entry in entries)
        paths = (self.folder / digest[:2] / digest[2:] for digest in sorted(going - needed))
        return [path for path in paths if path.is_file()]

    def _locked(self, runs: Collection[str]) -> Iterator[str]:
        """Objects that dvc.lock names: single files, and all files of other runs' folders."""
        locked = yaml.safe_load(LOCK.read_text()) if LOCK.is_file() else {}
        for stage, content in locked.get("stages", {}).items():
            for out in content.get("outs", ()):
                digest = out.get("md5", "")
                yield digest
                listing = self.folder / digest[:2] / digest[2:]
                is_other = stage.partition("@")[2] not in runs
                if is_other and digest.endswith(".dir") and listing.is_file():
                    yield from (entry["md5"] for entry in json.loads(listing.read_text()))


def _parts(listing: list[Entry]) -> dict[str, list[Entry]]:
    """A listing's policies, with names relative to each; under "" all else."""
    parts: dict[str, list[Entry]] = {}
    for entry in listing:
        match = _POLICY.match(entry["relpath"])
        prefix = match[0] if match else ""
        name = entry["relpath"].removeprefix(prefix)
        parts.setdefault(prefix, []).append({"md5": entry["md5"], "relpath": name})
    return parts


def _configurations() -> Iterator[str]:
    for name in ("config", "config.local"):
        file = Path(".dvc") / name
        if file.is_file():
            yield file.read_text()
