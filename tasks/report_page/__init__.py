"""The report page: data in, one self-contained HTML file out."""

from tasks.report_page.page import ReportData, ShownIteration, ShownTree, TreeNodes, render

__all__ = ["ReportData", "ShownIteration", "ShownTree", "TreeNodes", "render"]
