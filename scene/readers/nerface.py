"""The layout of NerFace (docs/data.md), for expression codes of FLAME: transforms_{train,val,test}.json.

    transforms_train.json ...   intrinsics, frames: file_path, expression, transform_matrix
    train/NAME.png ...          RGBA; NerFace's own pictures have no mask, and its codes are of another face model
    head.json                   optional, ours: {"head": NAME}

The head stands still, cameras are camera-to-world with OpenGL's axes, in units that NerFace chooses so that the head is
half a unit away. Focal lengths are pixels, along x with a sign that says nothing; the principal point is a share of
the picture. Ours, and optional: `scale` (units a metre; 1), `shape_params`, and in frames `pose` as in
flame_params.json (the root at rest) and `eyelids`. scene/writers/nerface.py writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scene import conventions
from scene.frame import Frame
from scene.readers.files import (
    at,
    camera_of,
    check_alike,
    masked_picture,
    numbers,
    object_list,
    picture_path,
    read_head_name,
    read_object,
    text,
    tracking_of,
)
from scene.readers.source import Source

PARTS = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
FACE2FACE = (76, 79)  # expression codes of the face models that NerFace and its relatives track with
TIMES_HELD_OUT = 350


def looks_like_nerface(path: Path) -> bool:
    """Whether the frames of transforms_train.json hold their expression codes themselves."""
    try:
        entries = read_object(path / PARTS[0]).get("frames")
    except (OSError, ValueError):
        return False
    return isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict) and "expression" in entries[0]


def read_nerface(path: Path) -> Source:
    """Open such a data set; see `scene.readers.open_source`. Frames come in the order train, val, test."""
    frames: list[Frame] = []
    places: list[str] = []
    for name in [PARTS[0], *(part for part in PARTS[1:] if (path / part).is_file())]:
        shared = read_object(path / name)
        if name != PARTS[0] and shared.get("frames") == []:
            continue
        for number, entry in enumerate(object_list(shared, "frames", str(path / name))):
            places.append(f"{path / name}: frames[{number}]")
            frames.append(_frame(path, len(frames), shared | entry, places[-1]))
    check_alike(frames, lambda frame: places[frame.index])
    return Source(tuple(frames), None, TIMES_HELD_OUT, head=read_head_name(path))


def _frame(path: Path, index: int, entry: dict[str, Any], where: str) -> Frame:
    expression = numbers(entry, "expression", (-1,), where)
    if len(expression) in FACE2FACE and "shape_params" not in entry:
        raise ValueError(f"{where}: expression: {len(expression)} codes are of Face2Face's model, which no head model "
                         "here has; track the video anew (track.py)")
    defaults = {"shape_params": np.zeros(0), "pose": np.zeros(15), "eyelids": np.zeros(2), "scale": 1.0}
    known = defaults | entry
    shape, pose, eyelids = (numbers(known, key, size, where) for key, size in
                            (("shape_params", (-1,)), ("pose", (15,)), ("eyelids", (2,))))
    if pose[:3].any():
        raise ValueError(f"{where}: pose: the root is turned; in this layout it stands still and the camera moves")
    image = picture_path(path / text(entry, "file_path", where), where)
    header = masked_picture(image, None)
    fx, fy, cx, cy = numbers(entry, "intrinsics", (4,), where)
    scale = float(numbers(known, "scale", (), where))
    R, t = conventions.from_camera_to_world(numbers(entry, "transform_matrix", (4, 4), where), "opengl")
    with at(where):
        if scale <= 0:
            raise ValueError(f"scale: a positive number is expected, got {scale:g}")
        K = conventions.pinhole(abs(fx), abs(fy), cx * header.width, cy * header.height)
        camera = camera_of(R, t / scale, K, header.width, header.height)
        tracking = tracking_of(shape, expression, pose[6:9], pose[9:], eyelids, pose[3:6])
    return Frame(index, camera, tracking, image)
