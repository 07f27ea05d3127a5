"""Problems: where they come from, how they are split, and the prompts made of them."""

from treepo.data.benchmarks import benchmark_files, read_benchmark
from treepo.data.families import FAMILIES, Family
from treepo.data.files import as_gold, read_lines
from treepo.data.prepare import Prepared, check_disjoint, prepare
from treepo.data.sources import load, local_files

__all__ = [
    "FAMILIES",
    "Family",
    "Prepared",
    "as_gold",
    "benchmark_files",
    "check_disjoint",
    "load",
    "local_files",
    "prepare",
    "read_benchmark",
    "read_lines",
]
