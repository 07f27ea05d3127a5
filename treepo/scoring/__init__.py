"""Scoring: from responses to rewards, by verifiers that run under a deadline.

It knows texts only. It must not import torch, and its processes never do.
"""

from treepo.scoring.answers import boxed_answer
from treepo.scoring.math import math
from treepo.scoring.pool import Verdict, VerifierPool
from treepo.scoring.verifiers import VERIFIERS, Verifier, exact, numeric, register

__all__ = [
    "VERIFIERS",
    "Verdict",
    "Verifier",
    "VerifierPool",
    "boxed_answer",
    "exact",
    "math",
    "numeric",
    "register",
]
