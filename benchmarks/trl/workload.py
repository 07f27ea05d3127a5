"""What both sides of the comparison share: sizes, prompts and a reward. Standard library only."""

from __future__ import annotations

import zlib

PROMPTS, WIDTH, TOKENS, PROMPT_TOKENS = 4, 16, 128, 96
LEARNING_RATE = 1e-6
_TEXT = (
    "A farmer has {n} crates of apples and sells some of them on each day of the week. On Monday "
    "he sells two crates, on Tuesday three, on Wednesday as many as on both days before, and on "
    "Thursday none, because the market is closed. On Friday it rains, and he sells only one. His "
    "neighbour buys half of what is left on Saturday and gives one crate to the school of the "
    "village. Work out step by step how many crates the farmer still has on Sunday, and explain "
    "each of the steps in a short sentence of your own before you give the final number."
)


def texts() -> list[str]:
    """Long texts, of which each side takes the first PROMPT_TOKENS tokens."""
    return [_TEXT.format(n=20 + 7 * index) for index in range(PROMPTS)]


def reward(response: str) -> float:
    """0 or 1, as good as random, the same for the same text."""
    return float(zlib.crc32(response.encode()) % 2)
