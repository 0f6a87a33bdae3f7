"""The tables and the report of an evaluation, from what evaluate.py puts into metrics.json."""

from training.report.page import page
from training.report.tables import markdown

__all__ = ["markdown", "page"]
