"""Several cameras: a folder for each, laid out as "insta", in which equal numbers are the same moment.

    cameras/NAME/checkpoint/%05d.frame, cameras/NAME/images/%05d.png    of the camera NAME
    canonical.obj, offset.txt, head.json                                optional, as in "insta"
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from scene.frame import Frame
from scene.readers.source import Source
from scene.readers.tracker import MODES, read_frames, with_still_files

FOLDER, MODE = "cameras", "insta"
CODES = ("shape", "expression", "jaw", "eyes", "eyelids")
SAME_CODE = 1e-4  # what files of one moment may differ by: they hold copies of the same float32 numbers


def has_cameras(path: Path) -> bool:
    """Whether the folder holds several cameras."""
    return (path / FOLDER).is_dir()


def read_cameras(path: Path) -> Source:
    """Open a data set of several cameras; see `scene.readers.open_source`."""
    folder = path / FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder (it holds a folder for each camera)")
    folders = sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    if not folders:
        raise FileNotFoundError(f"{folder}: empty; a folder for each camera is expected in it")
    frames: list[Frame] = []
    for mine in folders:
        frames += [replace(frame, index=len(frames) + frame.index, time=frame.index, view=mine.name)
                   for frame in read_frames(mine, MODE)]
    told: dict[int, Frame] = {}
    for frame in frames:
        _check_same_moment(path, told.setdefault(frame.time, frame), frame)
    return with_still_files(Source(tuple(frames), None, MODES[MODE].default_test_frames), path)


def _check_same_moment(path: Path, first: Frame, frame: Frame) -> None:
    """All cameras tell the same codes of a moment."""
    for name in CODES:
        wanted, got = (getattr(each.tracking, name) for each in (first, frame))
        if wanted.shape != got.shape or not np.allclose(wanted, got, rtol=0, atol=SAME_CODE):
            record = path / FOLDER / frame.view / "checkpoint" / f"{frame.time:05d}.frame"
            raise ValueError(f"{record}: {name}: the codes of camera {first.view} expected, for files of one number "
                             "are of one moment, got others")
