"""What actors raised, in words."""

from __future__ import annotations


def in_words(error: BaseException) -> str:
    """Kind and first line of what a task raised, without Ray's traceback of it."""
    from ray.exceptions import RayTaskError

    cause = error.cause if isinstance(error, RayTaskError) else error
    line = str(cause).strip().partition("\n")[0]
    return f"{type(cause).__name__}: {line}" if line else type(cause).__name__
