"""What IMavatar prepares and PointAvatar, SplattingAvatar and others read (docs/data.md): flame_params.json.

    flame_params.json   shape_params, intrinsics, frames; here or in the folders train/ and test/, each with its own
    image/N.png         the photograph
    mask/N.png          the head; without this folder the picture's own alpha
    head.json           optional, ours: {"head": NAME}; eyelids in frames are ours too

Each frame's pose holds 15 axis-angle numbers: root, neck, jaw, left and right eye. world_mat is world-to-camera with
OpenGL's axes, for a head model made 4 times as large. Intrinsics are shares of the picture, the focal length along x
with a minus sign that undoes the camera's backward z. scene/writers/imavatar.py writes it.
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
    masked_picture,
    numbers,
    object_list,
    picture_path,
    read_head_name,
    read_object,
    text,
    tracking_of,
)
from scene.readers.roots import placed
from scene.readers.source import RootPose, Source

FILE = "flame_params.json"
PARTS = ("train", "test")
SCALE = 4.0  # IMavatar's head model is that many times as large as FLAME
TIMES_HELD_OUT = 350


def looks_like_imavatar(path: Path) -> bool:
    """Whether there is a flame_params.json here or in train/."""
    return any((path / part / FILE).is_file() for part in ("", *PARTS))


def read_imavatar(path: Path) -> Source:
    """Open such a data set; see `scene.readers.open_source`. train/ comes before test/."""
    folders = [path] if (path / FILE).is_file() else [path / part for part in PARTS if (path / part / FILE).is_file()]
    if not folders:
        raise FileNotFoundError(f"{path}: no {FILE}, neither here nor in {' or '.join(f'{part}/' for part in PARTS)}")
    frames: list[Frame] = []
    roots: list[RootPose] = []
    places: list[str] = []
    for folder in folders:
        where = str(folder / FILE)
        values = read_object(folder / FILE)
        shape = numbers(values, "shape_params", (-1,), where)
        lens = numbers(values, "intrinsics", (4,), where)
        for number, entry in enumerate(object_list(values, "frames", where)):
            places.append(f"{where}: frames[{number}]")
            frame, root = _frame(folder, len(frames), entry, shape, lens, places[-1])
            frames.append(frame)
            roots.append(root)
    check_alike(frames, lambda frame: places[frame.index])
    return Source(tuple(frames), None, TIMES_HELD_OUT, head=read_head_name(path), pending=partial(placed, roots=roots))


def _frame(folder: Path, index: int, entry: dict[str, Any], shape: Floats, lens: Floats,
           where: str) -> tuple[Frame, RootPose]:
    image = picture_path(folder / text(entry, "file_path", where), where)
    mask = None
    if (folder / "mask").is_dir():
        mask = picture_path(folder / "mask" / image.stem, where)
    header = masked_picture(image, mask)
    pose = numbers(entry, "pose", (15,), where)
    R, t = conventions.from_world_to_camera(numbers(entry, "world_mat", (3, 4), where), "opengl")
    with at(where):
        camera = camera_of(R, t / SCALE, _pixels(lens, header.width, header.height), header.width, header.height)
        tracking = tracking_of(shape, numbers(entry, "expression", (-1,), where), pose[6:9], pose[9:],
                               numbers(entry, "eyelids", (2,), where) if "eyelids" in entry else None, pose[3:6])
    root = RootPose(conventions.matrix_of_turn(pose[:3]), np.zeros(3))
    return Frame(index, camera, tracking, image, mask), root


def _pixels(lens: Floats, width: int, height: int) -> Floats:
    """K of fx, fy, cx, cy as shares of the picture; the sign of fx belongs to the axes, some programs leave it out."""
    fx, fy, cx, cy = lens
    return conventions.pinhole(abs(fx) * width, fy * height, cx * width, cy * height)
