"""What INSTA prepares for its own program (docs/data.md): transforms.json, without the tracker's records.

    transforms.json          pictures with their cameras; or transforms_{train,test}.json
    images/NNNNN.png         RGBA, alpha is the head mask
    flame/exp/NNNNN.txt      expression codes of FLAME, one a line
    meshes/NNNNN.obj         the tracker's mesh; identity, jaw, eyes and eyelids are fitted to it (mesh_codes.py)
    head.json                optional, ours: {"head": NAME}

Cameras are camera-to-world with OpenCV's axes, unlike those of other transforms.json. scene/writers/insta_transforms.py
writes it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scene import conventions
from scene.frame import Frame
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
)
from scene.readers.mesh_codes import fitted_to_meshes
from scene.readers.source import Source

FILE = "transforms.json"
PARTS = ("transforms_train.json", "transforms_test.json")
TIMES_HELD_OUT = 350


def looks_like_insta_transforms(path: Path) -> bool:
    """Whether a transforms file here names files of expression codes, and there are no records of the tracker."""
    if (path / "checkpoint").is_dir():
        return False
    for name in (FILE, *PARTS):
        try:
            entries = read_object(path / name).get("frames")
        except (OSError, ValueError):
            continue
        if isinstance(entries, list) and entries and isinstance(entries[0], dict) and "exp_path" in entries[0]:
            return True
    return False


def read_insta_transforms(path: Path) -> Source:
    """Open such a data set; see `scene.readers.open_source`. Frames are ordered by the names of their pictures."""
    files = [FILE] if (path / FILE).is_file() else [name for name in PARTS if (path / name).is_file()] or [FILE]
    entries: dict[str, tuple[dict[str, Any], str]] = {}
    for name in files:
        shared = read_object(path / name)
        for number, entry in enumerate(object_list(shared, "frames", str(path / name))):
            where = f"{path / name}: frames[{number}]"
            entries.setdefault(text(entry, "file_path", where), (shared | entry, where))
    chosen = [entries[name] for name in sorted(entries)]
    frames = [_frame(path, index, *entry) for index, entry in enumerate(chosen)]
    check_alike(frames, lambda frame: str(path / chosen[frame.index][0]["exp_path"]))
    meshes = [path / text(entry, "mesh_path", where) for entry, where in chosen]
    return Source(tuple(frames), None, TIMES_HELD_OUT, head=read_head_name(path),
                  pending=partial(fitted_to_meshes, meshes=meshes))


def _frame(path: Path, index: int, entry: dict[str, Any], where: str) -> Frame:
    image = picture_path(path / text(entry, "file_path", where), where)
    header = masked_picture(image, None)
    matrix = numbers(entry, "transform_matrix", (4, 4), where)
    expression = _column(path / text(entry, "exp_path", where), where)
    with at(where):
        camera = camera_of(*conventions.from_camera_to_world(matrix, "opencv"), lens_of(entry, image, header, where),
                           header.width, header.height)
        tracking = tracking_of(np.zeros(0), expression, np.zeros(3), np.zeros(6))
    return Frame(index, camera, tracking, image)


def _column(path: Path, where: str) -> Floats:
    """The numbers of a text file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, though {where} names it")
    try:
        values = np.array(path.read_text(encoding="utf-8").split(), np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: numbers are expected ({error!s:.120})") from error
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{path}: finite numbers are expected, got {len(values)}")
    return values
