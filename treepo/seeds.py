"""Seeds derived by name, never drawn from global state.

A seed is a function of the experiment's seed and of what it is for (iteration, step, prompt,
node path), so that work done in another order, or again after a crash, draws the same numbers.
"""

import hashlib


def derive(*parts: int | str) -> int:
    """A 64-bit seed from an ordered list of names and numbers."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
