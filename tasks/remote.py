"""Artifacts from DVC's cache or remote, by the hashes in dvc.lock.

Brings what is missing and nothing else; what is there is never replaced. Every object is compared
with its hash on the way in. DVC's own fetch does not serve: to it a folder whose listing is in the
cache is whole, so after one part of an output it fetches no other.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.hashing import content_hash
from tasks.workspace import leads_out
from treepo.errors import WorkError
from treepo.storage import atomic

log = logging.getLogger(__name__)


def fetch(paths: Iterable[Path]) -> None:
    """Bring those of these paths that are missing and that dvc.lock knows; others stay missing.

    Outputs outside of the project stay missing too. Raises WorkError naming the path where the
    remote cannot be reached, or lacks an object or holds it damaged, or where an output's listing
    leads out of it.
    """
    missing = [Path(os.path.abspath(path)) for path in paths if not path.exists()]
    root = next((folder for folder in _above(missing) if (folder / ".dvc").is_dir()), None)
    if root is None or not (root / "dvc.lock").is_file():
        return
    from dvc.repo import Repo  # importing DVC takes a second

    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with Repo(str(root)) as repo:
        outs = {
            Path(out.fs_path): str(out.hash_info.value)
            for out in repo.index.outs
            if Path(out.fs_path).is_relative_to(repo.root_dir)
        }
        for path in missing:
            out = next((out for out in outs if path.is_relative_to(out)), None)
            if out is not None:
                _place(path, out, outs[out], _Objects(repo, path))


@dataclass(frozen=True)
class _Objects:
    """The objects of DVC's cache and remote; `wanted`: the path that they are asked for."""

    repo: Any
    wanted: Path

    def copy(self, digest: str, target: Path) -> None:
        """Write an object to `target`; from the cache where it is whole there.

        The cache is left as it is: what lies in it must be whole to DVC.
        """
        cached = Path(self.repo.cache.local.path) / digest[:2] / digest[2:]
        if _is_whole(cached, digest):
            shutil.copyfile(cached, target)
            return
        try:
            remote = self.repo.cloud.get_remote_odb()
            remote.fs.get_file(remote.oid_to_path(digest), str(target))
        except Exception as error:  # whatever a remote's client raises
            log.debug("%s", error)
        if not _is_whole(target, digest):
            name = self.repo.config["core"].get("remote") or "none"
            raise WorkError(
                f"{self.wanted}: cannot be fetched: DVC's remote '{name}' cannot be reached, lacks "
                "it or holds it damaged; check the remote, or 'dvc push' from where it was made"
            )


def _place(path: Path, out: Path, digest: str, objects: _Objects) -> None:
    """Write what lies at `path`, all of it or nothing. digest: of the output it is a part of."""
    with TemporaryDirectory() as folder:
        listing = Path(folder) / "listing"
        files = {out: digest}
        if digest.endswith(".dir"):
            objects.copy(digest, listing)
            entries = _listed(out, listing)
            for name in filter(leads_out, entries):
                raise WorkError(
                    f"{out}: not fetched: its listing leads out of it, to '{name}'; whoever made "
                    "dvc.lock must push it again"
                )
            files = {out / name: md5 for name, md5 in entries.items()}
        wanted = {
            file: md5
            for file, md5 in files.items()
            if file.is_relative_to(path) and not file.exists()
        }
        for number, md5 in enumerate(wanted.values()):
            objects.copy(md5, Path(folder) / str(number))
        for number, file in enumerate(wanted):
            with atomic(file) as temporary:
                shutil.copyfile(Path(folder) / str(number), temporary)


def _listed(out: Path, listing: Path) -> dict[str, str]:
    """Names of the files in an output, with their digests."""
    try:
        return {str(e["relpath"]): str(e["md5"]) for e in json.loads(listing.read_bytes())}
    except (ValueError, TypeError, KeyError):
        raise WorkError(
            f"{out}: not fetched: its listing in DVC's remote is none; whoever made dvc.lock must "
            "push it again"
        ) from None


def _is_whole(file: Path, digest: str) -> bool:
    return file.is_file() and content_hash(file) == digest.removesuffix(".dir")


def _above(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(paths[0].parents) if paths else ()
