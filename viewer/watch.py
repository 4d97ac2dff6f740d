"""Which checkpoint is the newest of a run that is still training."""

from __future__ import annotations

from pathlib import Path

from scene.run_folder import list_checkpoints


def newest_iteration(model_path: Path) -> int | None:
    """Iteration of the newest complete checkpoint of a run, None when there is none yet."""
    found = list_checkpoints(model_path / "checkpoints")
    return int(found[-1].name.split("_")[1]) if found else None
