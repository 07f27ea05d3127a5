"""Sampling: the paper's heuristics, one idea a file.

Importing the package fills the registries of all policies.
"""

from treepo.sampling.growth import Decode, Encode, Growth, Judge
from treepo.sampling.sampler import Grower, Prompt, Request, grow_tree

__all__ = ["Decode", "Encode", "Grower", "Growth", "Judge", "Prompt", "Request", "grow_tree"]
