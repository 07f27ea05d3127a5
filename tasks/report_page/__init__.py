"""The report page: data in, one self-contained HTML file out."""

from tasks.report_page.page import ReportData, render
from tasks.report_page.trees import SampleNode, SampleTree

__all__ = ["ReportData", "SampleNode", "SampleTree", "render"]
