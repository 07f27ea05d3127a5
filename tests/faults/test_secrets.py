"""What a user keeps in the environment stays there; what would be written down is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import SECRETS, refused, treepo


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
