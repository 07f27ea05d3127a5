"""Evaluation: from graded responses to figures with intervals, and what two evaluations differ in.

Pure functions of the evaluation table (one row a response). It knows no model, no file and no
verifier: whether two answers are the same is asked of a function.
"""

from treepo.evaluation.answers import Same, group_answers
from treepo.evaluation.comparison import Comparison, Flip, compare
from treepo.evaluation.estimators import DRAWS, majority, pass_at_k
from treepo.evaluation.summary import OVERALL, by_benchmark, solve, summarize

__all__ = [
    "DRAWS",
    "OVERALL",
    "Comparison",
    "Flip",
    "Same",
    "by_benchmark",
    "compare",
    "group_answers",
    "majority",
    "pass_at_k",
    "solve",
    "summarize",
]
