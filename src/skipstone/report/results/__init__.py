"""The page of the paper's tables, docs/results.md: everything on it follows from results.json, also the sentences."""

from skipstone.report.results.page import page, write, write_page
from skipstone.report.results.story import read_tried

__all__ = ["page", "read_tried", "write", "write_page"]
