"""One self-contained HTML page about a run: numbers, pictures, curves and a film, nothing loaded from elsewhere.

`gather` reads what training and evaluation left in the run's folder, `compare` sets it against the run without
blendshapes, `charts` draws curves, `page` and its template lay everything out. Pictures and the film travel inside
the file as data URIs, so that it can be mailed and plays from a disk.
"""

from utils.report.gather import write_report

__all__ = ["write_report"]
