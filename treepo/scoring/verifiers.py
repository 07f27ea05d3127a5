"""The verifiers by name, and the two that need no algebra: `exact` and `numeric`.

A verifier is a small pure function (gold, answer) -> bool. It knows no pool, no reward and no
box. One that may take long must not be `instant`: then a worker process with a deadline runs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches

from treepo.errors import UserError
from treepo.scoring.rational import quantity

Verifier = Callable[[str, str], bool]
Shortcut = Callable[[str, str], bool | None]

VERIFIERS: dict[str, Verifier] = {}
SHORTCUTS: dict[str, Shortcut] = {}

_BLANKS = re.compile(r"\s+")


def register(name: str, shortcut: Shortcut | None = None) -> Callable[[Verifier], Verifier]:
    """Enter a verifier under `name`. It must be importable where it is defined.

    shortcut: what decides the easy cases at once, in linear time; it returns None where the
    verifier has to. A verifier that is cheap itself is its own shortcut.
    """

    def enter(verifier: Verifier) -> Verifier:
        VERIFIERS[name] = verifier
        if shortcut is not None:
            SHORTCUTS[name] = shortcut
        return verifier

    return enter


def find(name: str) -> Verifier:
    """The verifier called `name`. Raises UserError, with the nearest name, where there is none."""
    if name in VERIFIERS:
        return VERIFIERS[name]
    near = get_close_matches(name, VERIFIERS, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"scoring.verifier: unknown verifier {name!r}{hint}")


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


register("exact", shortcut=exact)(exact)
register("numeric", shortcut=numeric)(numeric)
