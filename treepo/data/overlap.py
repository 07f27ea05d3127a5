"""Problems that training must not share with evaluation: equal ones, and near copies.

It knows texts as sequences of words and operators, without case, punctuation and white space, and
finds what has a run of these in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

EQUAL = "equal"
NEAR = "near"

_WORD = re.compile(r"[^\W_]+|[-+*/=<>^]")


def normalised_words(text: str) -> list[str]:
    """The words, numbers and operators of `text`, in lower case."""
    return _WORD.findall(text.lower())


class Overlap:
    """An index of problems. ngram: words in a row that make a near copy; 0: none."""

    def __init__(self, problems: Iterable[str], ngram: int) -> None:
        self._ngram = ngram
        self._whole: set[str] = set()
        self._grams: set[str] = set()
        for problem in problems:
            words = normalised_words(problem)
            self._whole.add(" ".join(words) or problem.strip())
            self._grams.update(self._runs(words))

    def kind(self, problem: str) -> str | None:
        """Whether `problem` is 'equal' to one of these, or 'near' one; None where it is neither."""
        words = normalised_words(problem)
        # A problem of symbols alone is compared as it stands.
        if (" ".join(words) or problem.strip()) in self._whole:
            return EQUAL
        return NEAR if any(run in self._grams for run in self._runs(words)) else None

    def _runs(self, words: list[str]) -> Iterator[str]:
        if self._ngram:
            for start in range(len(words) - self._ngram + 1):
                yield " ".join(words[start : start + self._ngram])
