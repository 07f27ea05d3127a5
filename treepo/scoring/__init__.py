"""Scoring: from responses to rewards, by verifiers that run under a deadline.

It knows texts only. It must not import torch, and its processes never do.
"""

from treepo.scoring.answers import boxed_answer
from treepo.scoring.choices import multiple_choice
from treepo.scoring.code import code
from treepo.scoring.math import math
from treepo.scoring.pool import Verdict, VerifierPool
from treepo.scoring.procedural import reasoning_gym
from treepo.scoring.rewards import COMPONENTS, Response, compose
from treepo.scoring.verifiers import VERIFIERS, Verifier, exact, numeric, regex, register

__all__ = [
    "COMPONENTS",
    "VERIFIERS",
    "Response",
    "Verdict",
    "Verifier",
    "VerifierPool",
    "boxed_answer",
    "code",
    "compose",
    "exact",
    "math",
    "multiple_choice",
    "numeric",
    "reasoning_gym",
    "regex",
    "register",
]
