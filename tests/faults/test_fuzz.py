"""The first of the inputs that `faults.fuzz` tries by the hundred thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.fuzz import fuzz, parsers

NAMES = ("parameters", "forest", "lineage", "answers")


@pytest.mark.parametrize("name", NAMES)
def test_hostile_input_is_read_or_refused(name: str, tmp_path: Path) -> None:
    (parser,) = (parser for parser in parsers(tmp_path) if parser.name == name)
    outcomes = fuzz(parser, 300)
    assert sum(outcomes.values()) == 300
    assert outcomes["read"] > 0
