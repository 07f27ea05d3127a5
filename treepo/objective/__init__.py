"""The policy loss on packed trees, exactly that of the flat batch.

Knows logprobs, advantages and which nodes a trajectory runs through; knows no model, no optimizer.
"""

from treepo.objective.divergence import DIVERGENCES
from treepo.objective.objectives import OBJECTIVES, Objective, evaluate
from treepo.objective.units import Entries, Tokens, Units, per_sequence, per_token
from treepo.objective.weighting import Weighting

__all__ = [
    "DIVERGENCES",
    "OBJECTIVES",
    "Entries",
    "Objective",
    "Tokens",
    "Units",
    "Weighting",
    "evaluate",
    "per_sequence",
    "per_token",
]
