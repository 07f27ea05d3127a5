"""What all tests share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Models of these sizes are many times slower on two threads beside another busy process."""
    torch.set_num_threads(1)
