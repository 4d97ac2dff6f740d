"""The answer to a folder of no known layout: what is there, which layout is nearest, and what that one misses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

MOST = 12  # names that are listed
VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")


def nearest(path: Path, files: Mapping[str, tuple[str, ...]]) -> tuple[str, list[str]]:
    """The layout of which most is there, the first of equals, and what is missing of it.

    files: layout -> patterns of what its folders hold, as `Path.glob` takes them.
    """
    missing = {name: [pattern for pattern in patterns if next(path.glob(pattern), None) is None]
               for name, patterns in files.items()}
    name = min(files, key=lambda name: len(missing[name]) / max(1, len(files[name])))
    return name, missing[name]


def describe(path: Path, name: str, missing: list[str], layout_of: Callable[[Path], str | None]) -> str:
    """One sentence or more for an error. name, missing: of `nearest`. layout_of: recognises a folder."""
    entries = sorted(entry for entry in path.iterdir() if entry.name[0] != ".")
    names = [entry.name + ("/" if entry.is_dir() else "") for entry in entries]
    there = ", ".join(names[:MOST]) + (", ..." if len(names) > MOST else "") if names else "nothing"
    lacks = f", of which {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing" if missing else ""
    text = f"{path}: no known layout; there is {there}. The nearest layout is {name}{lacks} (docs/data.md)"
    for entry in entries[:100]:
        if entry.is_dir() and (inner := layout_of(entry)) is not None:
            return f"{text}. Its folder {entry.name} is of layout {inner}: give {entry}"
    video = next((entry.name for entry in entries if entry.suffix.lower() in VIDEOS), None)
    return text + (f". From {video}, track.py makes a data set" if video else "")
