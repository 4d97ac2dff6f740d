"""Reading JSON files that somebody may have changed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 20


def read_json(path: Path) -> Any:
    """The value of a JSON file, UTF-8 with or without a mark at its start.

    Raises OSError when it cannot be opened; ValueError when it is not JSON, is over 64 MiB or nested too deeply. The
    message does not name the file.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.stat().st_size} bytes; JSON of at most {MAX_BYTES >> 20} MiB is read")
    return parse_json(path.read_text(encoding="utf-8-sig"))


def parse_json(text: str) -> Any:
    """The value of a JSON text. ValueError when it is none or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
