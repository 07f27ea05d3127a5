"""Artifacts from DVC's cache or remote, by the hashes in dvc.lock.

Brings what is missing and nothing else; what is there is never replaced. Every object is compared
with its hash on the way in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from treepo.errors import WorkError


def fetch(paths: Iterable[Path]) -> None:
    """Bring those of these paths that are missing and that dvc.lock knows; others stay missing.

    Raises WorkError naming the paths where the remote cannot be reached, or lacks an object or
    holds it damaged.
    """
    missing = [path.absolute() for path in paths if not path.exists()]
    root = next((folder for folder in _above(missing) if (folder / ".dvc").is_dir()), None)
    if root is None or not (root / "dvc.lock").is_file():
        return
    from dvc.exceptions import CheckoutError  # importing DVC takes a second
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)
    logging.getLogger("dvc_data").setLevel(logging.CRITICAL)
    logging.getLogger("dvc_objects").setLevel(logging.CRITICAL)
    with Repo(str(root)) as repo:
        name, known = _default_remote(repo), _known(repo, missing)
        if not known:
            return
        shown = ", ".join(str(path.relative_to(root)) for path in known[:3])
        if name:  # DVC itself believes what a remote sends
            repo.config["remote"][name]["verify"] = True
        try:
            repo.pull(targets=[str(path) for path in known])
        except CheckoutError:
            where = f"DVC's remote '{name}'" if name else "DVC's cache, and there is no remote,"
            raise WorkError(
                f"{shown}: cannot be fetched: {where} lacks it or holds it damaged; "
                "'dvc push' from where it was made brings it anew"
            ) from None
        except Exception as error:  # whatever a remote's client raises
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise WorkError(f"{shown}: DVC's remote '{name}' cannot be read ({reason})") from None


def _above(paths: list[Path]) -> tuple[Path, ...]:
    return tuple(paths[0].parents) if paths else ()


def _default_remote(repo: Any) -> str | None:
    """The remote that DVC reads from; None where there is none."""
    return repo.config["core"].get("remote") or next(iter(repo.config["remote"]), None)


def _known(repo: Any, paths: list[Path]) -> list[Path]:
    """Paths that are, or lie in, something whose hash dvc.lock holds."""
    outs = [Path(out.fs_path) for out in repo.index.outs if out.hash_info]
    return [path for path in paths if any(path.is_relative_to(out) for out in outs)]
