"""Which answers to a problem are the same: classes by verified equivalence, not by string.

Knows texts and a function that compares two of them; equal strings are compared for free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Same = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
RIGHT, NO_ANSWER = 0, -1


@dataclass
class _Open:
    """Different wrong answers to one problem that have no class yet, in order of appearance."""

    problem: str
    answers: list[str]


def group_answers(
    problems: Sequence[str],
    answers: Sequence[str | None],
    correct: Sequence[bool],
    same: Same,
) -> list[int]:
    """The class of each response's answer: 0 what is right, -1 no answer, 1, 2, ... the others.

    What is right was compared with the gold answer already and needs no other comparison. Of the
    rest, each class takes those that `same` finds equal to its first answer, so that a problem
    with c classes costs at most c comparisons an answer. `same` is asked about all problems at
    once. problems: of which problem each response is; the numbers start anew in each.
    """
    wrong: dict[str, dict[str, None]] = {}
    for problem, answer, right in zip(problems, answers, correct, strict=True):
        if answer is not None and not right:
            wrong.setdefault(problem, {})[answer] = None
    classes: dict[tuple[str, str], int] = {}
    waiting = [_Open(problem, list(texts)) for problem, texts in wrong.items()]
    number = RIGHT
    while waiting:
        number += 1
        verdicts = iter(same([(o.answers[0], other) for o in waiting for other in o.answers[1:]]))
        for left in waiting:
            first, *others = left.answers
            equal = {other for other in others if next(verdicts)}
            classes |= {(left.problem, text): number for text in (first, *equal)}
            left.answers = [other for other in others if other not in equal]
        waiting = [left for left in waiting if left.answers]
    return [
        RIGHT if right else NO_ANSWER if answer is None else classes[problem, answer]
        for problem, answer, right in zip(problems, answers, correct, strict=True)
    ]
