"""fleet.py of the checkout with the programs of this folder."""

import runpy
import sys
from pathlib import Path

here = Path(__file__).resolve().parent
root = here.parents[1]
sys.path[:1] = [str(root)]  # not this folder, whose test.py and train.py are other ones
entry = runpy.run_path(str(root / "fleet.py"))
entry["run"].__globals__["PROGRAMS"] = here
entry["main"]()
