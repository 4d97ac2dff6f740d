"""One self-contained HTML page about a run: numbers, pictures, curves and a film, nothing loaded from elsewhere.

This package knows how the page looks; `evaluation/report.py` gathers what it says. Pictures and the film travel
inside the file as data URIs, so that it can be mailed, and plays from a disk.
"""

from utils.report.charts import Series, line_chart
from utils.report.page import Card, Comparison, Page, Picture, Strip, Table, Verdict, data_uri, write_page

__all__ = [
    "Card",
    "Comparison",
    "Page",
    "Picture",
    "Series",
    "Strip",
    "Table",
    "Verdict",
    "data_uri",
    "line_chart",
    "write_page",
]
