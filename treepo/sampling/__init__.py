"""Sampling: the paper's heuristics, one idea a file."""

from treepo.sampling.sampler import Grower, Prompt, Request, grow_tree
from treepo.sampling.stopping import Decode

__all__ = ["Decode", "Grower", "Prompt", "Request", "grow_tree"]
