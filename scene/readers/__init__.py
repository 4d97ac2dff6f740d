"""Readers: one file per disk layout, and the only place that knows file names.

A new layout is one module with a function `(path, mode) -> Source` and one line here for each of its modes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scene.readers.source import MeshCounts, Source
from scene.readers.tracker import read_tracker

__all__ = ["READERS", "MeshCounts", "Source", "open_source"]

READERS: dict[str, Callable[[Path, str], Source]] = {
    "insta": read_tracker,
    "nerfbs": read_tracker,
    "hr": read_tracker,
}


def open_source(path: str | Path, mode: str = "insta") -> Source:
    """Open the data set in folder `path`, laid out as `mode` says (a key of READERS); check everything but pixels.

    Raises:
        FileNotFoundError: the folder or one of its files is missing; the message names the first.
        ValueError: unknown mode, or a file that does not hold what the layout promises; the message names it.
    """
    if mode not in READERS:
        raise ValueError(f"mode {mode!r} is unknown; known are {', '.join(READERS)}")
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder (a data set is a folder, see the README for its layout)")
    return READERS[mode](path, mode)
