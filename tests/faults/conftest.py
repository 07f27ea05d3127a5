"""Faults put into commands, with one Prefect server for all."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _served(prefect_server: None) -> None:
    """Without a server each command would start one of its own, and wait."""
