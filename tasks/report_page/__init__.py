"""The report pages: data in, one self-contained HTML file out."""

from tasks.report_page.evaluation import Against, EvaluationData, render_evaluation
from tasks.report_page.page import ReportData, ShownIteration, ShownTree, TreeNodes, render

__all__ = [
    "Against",
    "EvaluationData",
    "ReportData",
    "ShownIteration",
    "ShownTree",
    "TreeNodes",
    "render",
    "render_evaluation",
]
