"""What was asked of track.py: whether it is done already, and what runs that resume each other have in common."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from arguments.track_settings import TrackSettings
from tracking.workspace import MARK, load_table, plain

VERSION = 1  # of MARK
NOT_DECIDING = ("resume", "overwrite", "output", "device", "train", "train_flags")  # settings that change no result


def is_complete(settings: TrackSettings) -> bool:
    """Whether the data set that `settings` ask for lies at --output already.

    ValueError where one lies there that was made with other settings, or whose report cannot be read.
    """
    path = settings.output / MARK
    if not path.is_file():
        return False
    try:
        saved = load_table(path)["settings"]
        differing = sorted(key for key, value in plain(_deciding(settings)).items() if saved.get(key) != value)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not the report of a tracked data set ({error}); choose another --output") from error
    if differing:
        raise ValueError(f"--resume: {settings.output} was tracked with other {', '.join(differing)}; give the same "
                         "flags again, choose another --output, or replace it with --overwrite True")
    return True


def _deciding(settings: TrackSettings) -> dict[str, Any]:
    return {key: value for key, value in asdict(settings).items() if key not in NOT_DECIDING}


def job_of(settings: TrackSettings) -> dict[str, Any]:
    """What an interrupted run must have in common with the one that resumes it."""
    state = settings.video.stat()
    footage = {"video": settings.video.resolve(), "bytes": state.st_size, "modified": state.st_mtime_ns}
    for calibration in (settings.intrinsics, settings.calibration):
        if calibration is not None:
            footage["lens"] = calibration.read_text(encoding="utf-8", errors="replace")
    job = plain({**_deciding(settings), **footage, "version": VERSION})
    assert isinstance(job, dict)
    return job
