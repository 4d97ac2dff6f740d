"""Which checkpoints the folder of a run holds, told by their names: without reading them, and without torch."""

from __future__ import annotations

import re
from pathlib import Path

STATE_FILE = "state.json"  # of a checkpoint


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints below `folder`, oldest first."""
    if not folder.is_dir():
        return []
    complete = [p for p in folder.iterdir() if (p / STATE_FILE).is_file()]
    return sorted(p for p in complete if re.fullmatch(r"iteration_\d{8,}", p.name))


def refuse_trained_run(folder: Path) -> None:
    """ValueError where `folder` holds a trained run already."""
    if list_checkpoints(folder / "checkpoints"):
        raise ValueError(f"{folder}: holds a trained run; continue it with --resume or choose another --model_path")
