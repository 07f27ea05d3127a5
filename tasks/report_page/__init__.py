"""The report pages: data in, one self-contained HTML file out."""

from tasks.report_page.efficiency import EfficiencyPage, render_efficiency
from tasks.report_page.evaluation import Against, EvaluationData, render_evaluation
from tasks.report_page.page import ReportData, ShownIteration, ShownTree, TreeNodes, render

__all__ = [
    "Against",
    "EfficiencyPage",
    "EvaluationData",
    "ReportData",
    "ShownIteration",
    "ShownTree",
    "TreeNodes",
    "render",
    "render_efficiency",
    "render_evaluation",
]
