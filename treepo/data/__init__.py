"""Problems: where they come from, how they are split, and the prompts made of them."""

from treepo.data.benchmarks import read_benchmark
from treepo.data.families import FAMILIES, Family
from treepo.data.files import as_gold, read_lines
from treepo.data.prepare import Prepared, check_disjoint, prepare
from treepo.data.sources import load

__all__ = [
    "FAMILIES",
    "Family",
    "Prepared",
    "as_gold",
    "check_disjoint",
    "load",
    "prepare",
    "read_benchmark",
    "read_lines",
]
