"""The verifiers by name, and the small ones: `exact`, `numeric`, `regex`.

A verifier is a pure function (gold, answer) -> how right the answer is. It knows no pool, no reward
and no response; `Verifier` says what else goes with it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from treepo.errors import UserError
from treepo.registry import Registry
from treepo.scoring.answers import Found, final_answer
from treepo.scoring.rational import quantity

# True, False, or a score between 0 and 1; 1 is right, everything less wrong.
Judge = Callable[[str, str], float]
Shortcut = Callable[[str, str], bool | None]

_BLANKS = re.compile(r"\s+")


def _nothing() -> None:
    """What most verifiers need before their first verdict."""


@dataclass(frozen=True)
class Verifier:
    """One way to judge an answer.

    judge: it must be importable where it is defined, and may take long or fail: a worker process
    with a deadline runs it. shortcut: decides the easy cases at once, in bounded time, None where
    the judge has to; what is cheap itself is its own shortcut. extract: finds in a response what is
    judged. reads: whether the judge can make sense of a gold answer; None: where it accepts that
    answer itself. load: what has to be imported,
    once a process and outside of the deadline.
    """

    judge: Judge
    shortcut: Shortcut | None = None
    extract: Callable[[str, bool], Found] = final_answer
    reads: Callable[[str], bool] | None = None
    load: Callable[[], None] = _nothing


VERIFIERS: Registry[Verifier] = Registry(
    "scoring.verifier", paths=True, documented=lambda verifier: verifier.judge
)


def register(name: str, **others: Any) -> Callable[[Judge], Judge]:
    """Enter a judge under `name`; others: the fields of its `Verifier`."""

    def enter(judge: Judge) -> Judge:
        VERIFIERS.register(name)(Verifier(judge, **others))
        return judge

    return enter


def find(name: str) -> Verifier:
    """The verifier called `name`, or the user's function at `package.module:function`.

    Raises UserError, with the nearest name, where there is none.
    """
    module, colon, function = name.partition(":")
    return Verifier(_imported(module, function)) if colon else VERIFIERS.get(name)


def _imported(module: str, function: str) -> Judge:
    # Installed commands do not have the current folder on their path, where a user's module lies.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        judge: Any = getattr(import_module(module), function)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        message = f"scoring.verifier: {module}:{function} cannot be imported ({reason:.200})"
        raise UserError(message) from None
    if not callable(judge):
        raise UserError(f"scoring.verifier: {module}:{function} is no function (gold, answer)")
    return cast(Judge, judge)


def alternatives(gold: str) -> list[str]:
    """The gold answers of a row: several where the text is a JSON list of texts, such as ["1","2"].

    A response is as right as it is by the one that suits it best.
    """
    if gold.lstrip().startswith('["'):
        try:
            found = json.loads(gold)
        except ValueError:
            return [gold]
        if all(isinstance(one, str) for one in found):
            return found
    return [gold]


def plain(text: str) -> str:
    """`text` without dollar signs around it, full stops after it, and superfluous blanks."""
    return _BLANKS.sub(" ", text).strip().rstrip(".").strip("$ ").rstrip(". ")


def exact(gold: str, answer: str) -> bool:
    """The same text, up to blanks, dollar signs around it and full stops after it."""
    wanted = plain(gold)
    return wanted != "" and wanted == plain(answer)


def numeric(gold: str, answer: str) -> bool:
    """The same rational number, compared exactly. What is not a number is wrong."""
    wanted, got = quantity(gold), quantity(answer)
    return wanted is not None and got is not None and wanted.equals(got)


def is_pattern(gold: str) -> bool:
    """Whether the text is a regular expression."""
    try:
        re.compile(gold)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


@register("regex", reads=is_pattern)
def regex(gold: str, answer: str) -> bool:
    """The whole answer matches the regular expression `gold`. Some take long: no shortcut."""
    return re.fullmatch(gold, answer.strip()) is not None


register("exact", shortcut=exact)(exact)
register("numeric", shortcut=numeric)(numeric)
