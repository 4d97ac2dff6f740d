"""What VHAP exports and GaussianAvatars trains on (docs/data.md): several cameras of one time, or one camera.

    transforms_{train,val,test}.json   pictures with their cameras; all three are read, or transforms.json alone
    images/TTTTT_CC.png                the photograph           fg_masks/TTTTT_CC.png   the head
    flame_param/TTTTT.npz              codes and pose of the head model at one time, static offset; eyelids (ours)
    head.json                          optional, ours: {"head": NAME}; else FLAME 2023

Cameras are camera-to-world with OpenGL's axes, rotations are axis-angle, the root turns about its joint and is then
shifted. scene/writers/vhap.py writes it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scene import conventions
from scene.frame import Frame, Tracking, read_only
from scene.readers.files import (
    Floats,
    at,
    camera_of,
    check_alike,
    lens_of,
    masked_picture,
    numbers,
    object_list,
    picture_path,
    read_head_name,
    read_object,
    text,
    tracking_of,
    whole,
)
from scene.readers.roots import placed
from scene.readers.source import RootPose, Source
from utils.arrays import read_npz

SPLITS = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
WHOLE = "transforms.json"
HEAD = "flame2023"
TIMES_HELD_OUT = 350
TURNS = {"rotation": 3, "neck_pose": 3, "jaw_pose": 3, "eyes_pose": 6}
"""Axis-angle vectors of a flame_param file: how many numbers."""

_OPTIONAL = {"neck_pose": 3, "eyes_pose": 6}  # at rest where a file has none

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Moment:
    """Codes and root pose of the head at one time, and its static offset [V,3] where it has one."""

    tracking: Tracking
    root: RootPose
    static_offset: Floats | None


@dataclass(frozen=True)
class _Picture:
    """One entry of a transforms file."""

    time: int
    view: int
    entry: dict[str, Any]
    where: str


def looks_like_vhap(path: Path) -> bool:
    """Whether a transforms file here names flame_param files; a file that is damaged does not."""
    for name in (*SPLITS, WHOLE):
        try:
            entries = read_object(path / name).get("frames")
        except (OSError, ValueError):
            continue
        if isinstance(entries, list) and entries and isinstance(entries[0], dict) and "flame_param_path" in entries[0]:
            return True
    return False


def read_vhap(path: Path) -> Source:
    """Open an export of VHAP; see `scene.readers.open_source`. Frames are ordered by time, then by camera."""
    pictures = _pictures(path)
    order = {time: number for number, time in enumerate(sorted({picture.time for picture in pictures}))}
    several = len({picture.view for picture in pictures}) > 1
    moments: dict[int, Moment] = {}
    files: dict[int, Path] = {}
    frames = []
    for index, picture in enumerate(pictures):
        file = path / text(picture.entry, "flame_param_path", picture.where)
        if files.setdefault(picture.time, file) != file:
            raise ValueError(f"{picture.where}: flame_param_path: {files[picture.time].name} expected as for the other "
                             f"cameras of timestep_index {picture.time}, got {file.name}")
        if picture.time not in moments:
            moments[picture.time] = read_moment(file)
        frames.append(_frame(path, index, picture, moments[picture.time], order[picture.time], several))
    offset = moments[pictures[0].time].static_offset
    check_alike(frames, lambda frame: str(files[pictures[frame.index].time]))
    return Source(
        tuple(frames), None, TIMES_HELD_OUT, head=read_head_name(path) or HEAD,
        pending=partial(placed, roots=[moments[picture.time].root for picture in pictures]),
        static_offset=None if offset is None else read_only(offset),
    )


def read_moment(path: Path) -> Moment:
    """One file of flame_param/."""
    return moment_of(read_npz(path), str(path))


def moment_of(values: dict[str, Any], where: str) -> Moment:
    """Codes and pose from the arrays of a flame_param file. ValueError naming `where` and the array."""
    missing = {name: np.zeros(count) for name, count in _OPTIONAL.items() if name not in values}
    turns = {name: numbers(values | missing, name, (count,), where) for name, count in TURNS.items()}
    if np.any(values.get("dynamic_offset", 0)):
        _log.warning("%s: dynamic_offset is not used: differences of expressions learn what it says", where)
    shape, expression = (numbers(values, name, (-1,), where) for name in ("shape", "expr"))
    eyelids = numbers(values, "eyelids", (2,), where) if "eyelids" in values else None
    tracking = tracking_of(shape, expression, turns["jaw_pose"], turns["eyes_pose"], eyelids, turns["neck_pose"])
    root = RootPose(conventions.matrix_of_turn(turns["rotation"]), numbers(values, "translation", (3,), where))
    offset = numbers(values, "static_offset", (-1, 3), where) if "static_offset" in values else None
    return Moment(tracking, root, offset)


def _pictures(path: Path) -> list[_Picture]:
    """All entries of the transforms files, by time and camera, without those that say the same picture again."""
    names = [name for name in SPLITS if (path / name).is_file()] or [WHOLE]
    found: dict[tuple[int, int], _Picture] = {}
    for name in names:
        shared = read_object(path / name)
        if name != WHOLE and shared.get("frames") == []:
            continue  # a clip of one camera has no validation pictures
        for number, entry in enumerate(object_list(shared, "frames", str(path / name))):
            where = f"{path / name}: frames[{number}]"
            key = (whole(entry, "timestep_index", where), whole({"camera_index": 0} | entry, "camera_index", where))
            picture = _Picture(*key, shared | entry, where)
            if key in found and found[key].entry.get("file_path") != entry.get("file_path"):
                raise ValueError(f"{where}: another picture of timestep_index {key[0]}, camera_index {key[1]} than "
                                 f"{found[key].where}")
            found.setdefault(key, picture)
    if not found:
        raise ValueError(f"{path / names[0]}: frames: no pictures in {', '.join(names)}")
    return [found[key] for key in sorted(found)]


def _frame(path: Path, index: int, picture: _Picture, moment: Moment, time: int, several: bool) -> Frame:
    entry, where = picture.entry, picture.where
    image = picture_path(path / text(entry, "file_path", where), where)
    mask = None
    if entry.get("fg_mask_path") is not None:
        mask = picture_path(path / text(entry, "fg_mask_path", where), where)
    header = masked_picture(image, mask)
    matrix = numbers(entry, "transform_matrix", (4, 4), where)
    lens = lens_of(entry, image, header, where)
    with at(where):
        camera = camera_of(*conventions.from_camera_to_world(matrix, "opengl"), lens, header.width, header.height)
    view = str(entry.get("camera_id", picture.view)) if several else ""
    return Frame(index, camera, moment.tracking, image, mask, time, view)
