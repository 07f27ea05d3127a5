"""Artifacts from DVC's cache or remote, by the hashes in dvc.lock.

Brings what is missing and nothing else; what is there is never replaced. Every object is compared
with its hash on the way in.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from tasks.hashing import content_hash
from treepo.errors import WorkError
from treepo.storage import atomic

log = logging.getLogger(__name__)


def fetch(paths: Iterable[Path]) -> None:
    """Bring those of these paths that are missing and that dvc.lock knows; others stay missing.

    Raises WorkError naming the paths where the remote cannot be reached, or lacks an object or
    holds it damaged.
    """
    missing = [path.absolute() for path in paths if not path.exists()]
    root = next((folder for folder in _above(missing) if (folder / ".dvc").is_dir()), None)
    if root is None or not (root / "dvc.lock").is_file():
        return
    from dvc.repo import Repo  # importing DVC takes a second

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    logging.getLogger("dvc_data").setLevel(logging.CRITICAL)
    logging.getLogger("dvc_objects").setLevel(logging.CRITICAL)
    with Repo(str(root)) as repo:
        name = repo.config["core"].get("remote") or "none"
        outs = {Path(out.fs_path): str(out.hash_info.value) for out in repo.index.outs}
        known = [path for path in missing if any(path.is_relative_to(out) for out in outs)]
        if not known:
            return
        cache = Path(repo.cache.local.path)
        for path in known:
            try:  # one by one: of several parts of one output DVC was seen to fetch only one
                repo.fetch(targets=[str(path)])
            except Exception as error:  # whatever a remote's client raises
                log.debug("%s", error)
            out = next(out for out in outs if path.is_relative_to(out))
            _place(path, out, outs[out], cache, name)


def _place(path: Path, out: Path, digest: str, cache: Path, remote: str) -> None:
    """Copy what lies at `path` out of the cache. `digest`: of the output that it is a part of.

    Not by DVC's checkout: that removes what is there where an object is missing.
    """
    if not digest.endswith(".dir"):
        files = {out: digest}
    else:
        listing = json.loads(_object(cache, digest, path, remote).read_text())
        files = {out / entry["relpath"]: entry["md5"] for entry in listing}
    wanted = {file: md5 for file, md5 in files.items() if file.is_relative_to(path)}
    objects = {file: _object(cache, md5, file, remote) for file, md5 in wanted.items()}
    for file, source in objects.items():
        with atomic(file) as temporary:
            shutil.copyfile(source, temporary)


def _object(cache: Path, digest: str, path: Path, remote: str) -> Path:
    """An object of the cache, whole; a damaged one is removed, so that it is asked for again."""
    file = cache / digest[:2] / digest[2:]
    if file.is_file() and content_hash(file) == digest.removesuffix(".dir"):
        return file
    file.unlink(missing_ok=True)
    raise WorkError(
        f"{path}: cannot be fetched: DVC's remote '{remote}' cannot be reached, lacks it or holds "
        "it damaged; check the remote, or 'dvc push' from where it was made"
    )


def _above(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(paths[0].parents) if paths else ()
