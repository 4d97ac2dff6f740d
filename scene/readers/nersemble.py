"""Several cameras of one time as NeRSemble keeps them (docs/data.md), with codes of VHAP's kind.

    camera_params.json             world_2_cam: {camera: 4 x 4}, intrinsics: 3 x 3 or {camera: 3 x 3}; here, in the
                                   folder above, or in ../../camera_params/SUBJECT/ of a folder SUBJECT/SEQUENCE/
    images/cam_CAMERA_TIME.jpg     photographs, .jpg or .png
    alpha_maps/cam_CAMERA_TIME.png the head
    flame_param/TIME.npz           codes and pose of the head at one time, as scene/readers/vhap.py reads them; or
    tracked_flame_params*.npz      the same arrays for all times, [T,n]
    head.json                      optional, ours: {"head": NAME}; else FLAME 2023

Cameras are world-to-camera with OpenCV's axes, metres; the head's pose is in the same world. K may belong to pictures
of a whole multiple of the size. scene/writers/nersemble.py writes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scene import conventions
from scene.frame import Frame, read_only
from scene.readers.files import (
    Floats,
    at,
    beside,
    camera_of,
    check_alike,
    masked_picture,
    numbers,
    picture_path,
    read_head_name,
    read_object,
)
from scene.readers.roots import placed
from scene.readers.source import Source
from scene.readers.vhap import HEAD, TIMES_HELD_OUT, TURNS, Moment, moment_of, read_moment
from utils.arrays import read_npz

CAMERAS = "camera_params.json"
TRACKED = "tracked_flame_params*.npz"
_PICTURE = re.compile(r"cam_(?P<view>.+)_(?P<time>\d+)\.(png|jpg|jpeg)", re.IGNORECASE)
_PER_TIME = (*TURNS, "translation", "expr", "eyelids")


def looks_like_nersemble(path: Path) -> bool:
    """Whether there are pictures named by camera and time, and alpha_maps/."""
    folder = path / "images"
    named = folder.is_dir() and any(_PICTURE.fullmatch(file.name) for file in folder.iterdir())
    return named and (path / "alpha_maps").is_dir()


def read_nersemble(path: Path) -> Source:
    """Open a sequence; see `scene.readers.open_source`. Frames are ordered by time, then by camera."""
    pictures = _pictures(path / "images")
    times = sorted({time for time, _ in pictures})
    cameras, lenses, where = _cameras(path)
    several = len({view for _, view in pictures}) > 1
    moment_at = _moments(path, times)
    moments = {time: moment_at(number) for number, time in enumerate(times)}
    frames = []
    for index, ((time, view), image) in enumerate(sorted(pictures.items())):
        mask = picture_path(path / "alpha_maps" / image.stem, str(image))
        header = masked_picture(image, mask)
        if view not in cameras:
            raise ValueError(f"{where}: world_2_cam: no camera {view}, though {image} is there; there are "
                             f"{', '.join(list(cameras)[:8])}")
        R, t = conventions.from_world_to_camera(cameras[view], "opencv")
        with at(f"{where}: camera {view}"):
            K = _fitted(lenses[view], header.width)
            camera = camera_of(R, t, K, header.width, header.height)
        name = view if several else ""
        frames.append(Frame(index, camera, moments[time].tracking, image, mask, times.index(time), name))
    check_alike(frames, lambda frame: f"{path}: codes of time {times[frame.time]}")
    offset = moments[times[0]].static_offset
    return Source(tuple(frames), None, TIMES_HELD_OUT, head=read_head_name(path) or HEAD,
                  pending=partial(placed, roots=[moments[times[frame.time]].root for frame in frames]),
                  static_offset=None if offset is None else read_only(offset))


def _pictures(folder: Path) -> dict[tuple[str, str], Path]:
    """(time, camera) -> file, as their names say."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder (of pictures, cam_CAMERA_TIME.jpg){beside(folder)}")
    found = {(match["time"], match["view"]): file for file in folder.iterdir()
             if (match := _PICTURE.fullmatch(file.name))}
    if not found:
        raise FileNotFoundError(f"{folder}: no pictures named cam_CAMERA_TIME.jpg{beside(folder / 'cam')}")
    return found


def _cameras(path: Path) -> tuple[dict[str, Floats], dict[str, Floats], str]:
    """Camera -> world-to-camera [4,4], camera -> K [3,3], and the file."""
    full = path.resolve()
    places = [path / CAMERAS, full.parent / CAMERAS, full.parent.parent / "camera_params" / full.parent.name / CAMERAS]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{path / CAMERAS}: missing, and so are {' and '.join(map(str, places[1:]))}")
    where, values = str(file), read_object(file)
    poses = values.get("world_2_cam")
    if not isinstance(poses, dict) or not poses:
        raise ValueError(f"{where}: world_2_cam: an object of cameras is expected, there are {', '.join(values)}")
    cameras = {view: numbers(poses, view, (4, 4), f"{where}: world_2_cam") for view in poses}
    lens = values.get("intrinsics")
    if isinstance(lens, dict):
        return cameras, {view: numbers(lens, view, (3, 3), f"{where}: intrinsics") for view in cameras}, where
    return cameras, dict.fromkeys(cameras, numbers(values, "intrinsics", (3, 3), where)), where


def _fitted(K: Floats, width: int) -> Floats:
    """K for pictures of that width: the principal point lies near the middle, so it tells how many times smaller."""
    ratio = max(1.0, float(np.rint(2 * K[0, 2] / width)))
    return np.diag([1 / ratio, 1 / ratio, 1.0]) @ K


def _moments(path: Path, times: list[str]) -> Callable[[int], Moment]:
    """From the number of a time to its codes."""
    if (path / "flame_param").is_dir():
        def one(number: int) -> Moment:
            file = path / "flame_param" / f"{int(times[number]):05d}.npz"
            other = path / "flame_param" / f"{times[number]}.npz"
            return read_moment(other if other.is_file() else file)

        return one
    files = sorted(path.glob(TRACKED))
    if not files:
        raise FileNotFoundError(f"{path}: no codes of the head: neither flame_param/ nor {TRACKED}; VHAP makes them "
                                "(its export is read with --layout vhap)")
    arrays, where = read_npz(files[-1]), str(files[-1])
    for name in _PER_TIME:
        if name in arrays and len(np.atleast_2d(arrays[name])) != len(times):
            raise ValueError(f"{where}: {name}: {len(times)} rows are expected, one for each time in images/, got "
                             f"{len(np.atleast_2d(arrays[name]))}")

    def row(number: int) -> Moment:
        values: dict[str, Any] = {name: array[number] if name in _PER_TIME else array for name, array in arrays.items()}
        return moment_of(values, f"{where}: row {number}")

    return row
