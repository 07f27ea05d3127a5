r"""The `multiple_choice` verifier: B, (B), \text{(B)}, B) 42, option B; several as A, C or AC."""

from __future__ import annotations

import re

from treepo.scoring.verifiers import register

MAX_CHARACTERS = 2000

_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)(?![A-Za-z])|\\[()\[\],;!: ]|[{}$*]")
_ONE = re.compile(
    r"(?:option|choice|answer)?\s*[(\[]?([A-Z])(?:[)\].:]+(?:\s.*)?|)", re.IGNORECASE | re.DOTALL
)
_SEVERAL = re.compile(r"[(\[]?[A-Z][)\]]?(?:(?:\s*[,;&]\s*|\s+(?:and\s+)?|)[(\[]?[A-Z][)\]]?)+")
_LETTER = re.compile(r"[A-Z]")


def letters(text: str) -> frozenset[str] | None:
    """The options that `text` names, None where it names none or says something else."""
    plain = _MARKUP.sub("", text[:MAX_CHARACTERS]).strip().rstrip(".").strip()
    if found := _ONE.fullmatch(plain):
        return frozenset(found[1].upper())
    if _SEVERAL.fullmatch(plain):
        return frozenset(_LETTER.findall(plain.replace("and", "")))
    return None


def _reads(gold: str) -> bool:
    return letters(gold) is not None


def multiple_choice(gold: str, answer: str) -> bool:
    """The same option, or the same options in any order."""
    wanted = letters(gold)
    return wanted is not None and wanted == letters(answer)


register("multiple_choice", shortcut=multiple_choice, reads=_reads)(multiple_choice)
