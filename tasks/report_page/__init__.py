"""The report pages: data in, one self-contained HTML file out."""

from tasks.report_page.evaluation import Against, EvaluationData, render_evaluation
from tasks.report_page.page import ReportData, render
from tasks.report_page.trees import SampleNode, SampleTree

__all__ = [
    "Against",
    "EvaluationData",
    "ReportData",
    "SampleNode",
    "SampleTree",
    "render",
    "render_evaluation",
]
