"""A disk that is too small, as `faults.disk` makes them in every size."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from projects import make_project, same_runs, treepo

from faults.disk import NAMESPACE, run_on_disk

pytestmark = pytest.mark.slow


def test_full_disk(finished: Path, tmp_path: Path) -> None:
    """One line, what was finished stays whole, and a larger disk goes on with it."""
    if subprocess.run([*NAMESPACE, "mount -t tmpfs none /mnt"], check=False).returncode:
        pytest.skip("this machine allows no mount in a namespace")
    folder = make_project(tmp_path)
    code, complaint = run_on_disk(folder, 900)
    assert code == 1
    assert "cannot be written (No space left on device)" in complaint
    assert "Traceback" not in complaint
    assert (folder / "runs/smoke/params.yaml").exists()
    result = treepo(folder, "run", "smoke")
    assert result.returncode == 0, result.stderr
    assert same_runs(folder, finished)
