"""What a result depends on beside its inputs: the code, the packages, the device."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from treepo.engines.kernel import library

PACKAGES = (
    "treepo",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "numpy",
    "datasets",
    "math-verify",
)


@cache
def code_version() -> dict[str, str]:
    """Commit of the code, and whether files differ from it; empty outside a git checkout."""
    folder = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            # Without the optional locks: a run killed in the middle must leave none behind.
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "treepo", "tasks", "flows")
        return {"commit": git("rev-parse", "HEAD"), "changed": "yes" if changed else "no"}
    except (OSError, subprocess.CalledProcessError):
        return {}


@cache
def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on, and of Python."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device(name: str, compute: str) -> dict[str, Any]:
    """What computed: torch device, processor, threads, and whether with our compiled kernel.

    compute: where; 'local' or 'ray'.
    """
    described = (
        torch.cuda.get_device_name(name)
        if name.startswith("cuda")
        else torch.backends.cpu.get_cpu_capability()
    )
    return {
        "compute": compute,
        "device": name,
        "kind": described,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "decoding": "torch" if library() is None else "compiled",
    }
