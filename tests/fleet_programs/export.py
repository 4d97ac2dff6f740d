"""Stands in for export.py."""

import sys
from pathlib import Path

from stand_in import note, value_of

avatar, output = Path(sys.argv[1]), Path(value_of("output"))
assert (avatar / "metrics.json").is_file(), "exported before it was tested"
output.write_text("exported")
note(f"{avatar.name} export {value_of('format')}")
