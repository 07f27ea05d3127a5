"""Efficiency of sampling (paper section 4.1): from counts and times to measures, ratios, curves.

Pure functions. It knows no engine, no clock and no file; accuracy comes from `treepo.evaluation`.
"""

from treepo.efficiency.measures import MEASURES, Measurement, accuracies, costs
from treepo.efficiency.scaling import SCALING, Point, expected_tokens, scaling_points
from treepo.efficiency.summary import Row, Values, summary

__all__ = [
    "MEASURES",
    "SCALING",
    "Measurement",
    "Point",
    "Row",
    "Values",
    "accuracies",
    "costs",
    "expected_tokens",
    "scaling_points",
    "summary",
]
