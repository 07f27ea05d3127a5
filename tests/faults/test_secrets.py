"""What a user keeps in the environment stays there; what would be written down is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import PREFECT, SECRETS, make_project, refused, started, treepo

# The tracker is not there, so that what is said of it reaches Prefect's log.
ADDRESSES = {
    "MLFLOW_TRACKING_URI": "http://me:secret-mlflow@127.0.0.1:9",
    "PREFECT_API_AUTH_STRING": "me:secret-prefect",
    "RAY_AUTH_TOKEN": "secret-ray",
    "TREEPO_WEBHOOK": "http://127.0.0.1:9/secret-webhook",
}


@pytest.mark.slow
def test_neither_output_nor_files_nor_prefect_hold_a_secret(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "project")
    with started(folder, "run", "smoke", "--set", "iterations=1", **ADDRESSES) as run:
        said = "".join(run.communicate(timeout=300))
    assert run.returncode == 0, said
    assert "http://127.0.0.1:9\n" in said
    assert "MLflow: does not record now" in said
    assert "secret-" not in said
    stored = [file for file in folder.rglob("*") if file.is_file()]
    database = list(Path(PREFECT["PREFECT_HOME"]).glob("prefect.db*"))
    assert any(b"http://127.0.0.1:9" in file.read_bytes() for file in database)
    for file in (*stored, *database):
        assert b"secret-" not in file.read_bytes(), file


@pytest.mark.slow
def test_no_file_of_a_run_holds_a_secret(finished: Path) -> None:
    files = [file for file in finished.rglob("*") if file.is_file()]
    assert any(file.name == "mlflow.db" for file in files)
    assert any(file.name == "lineage.jsonl" for file in files)
    for file in files:
        content = file.read_bytes()
        for name, secret in SECRETS.items():
            assert secret.encode() not in content, (name, file)


@pytest.mark.slow
def test_a_password_in_an_address_is_refused_and_not_repeated(finished: Path) -> None:
    address = "engine.server.urls=[http://me:hunter2@127.0.0.1:8000]"
    result = treepo(finished, "run", "smoke", "--set", address)
    refused(result, "engine.server.urls", "VLLM_API_KEY")
    assert "hunter2" not in result.stdout + result.stderr
