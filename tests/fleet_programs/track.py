"""Stands in for track.py: one file instead of a data set."""

import json
import sys
from pathlib import Path

from stand_in import note, value_of

video, output = Path(sys.argv[1]), Path(value_of("output"))
if video.read_bytes().startswith(b"broken"):
    sys.exit(f"track.py: {video}: neither video nor image could be read from it")
hidden = output.with_name(f".{output.name}.tracking")
hidden.mkdir()
(hidden / "tracking.json").write_text(json.dumps({"verdict": {"word": "good", "reasons": []}, "frames_kept": 5}))
note(f"{output.name} track {value_of('size')}".strip())
hidden.rename(output)
