"""The inverse of scene/readers/nersemble.py: a sequence of several cameras that stand still."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flame import Head
from scene import conventions
from scene.readers.nersemble import CAMERAS
from scene.readers.roots import RootJoint, camera_before
from scene.readers.source import Source
from scene.writers.common import write_head_name, write_pictures
from scene.writers.vhap import codes_of, root_poses
from utils.arrays import write_npz
from utils.atomic import write_json

STILL = 1e-4  # metres, and of rotation matrices: what a camera may move between two moments


def write_nersemble(folder: Path, source: Source, head: Head) -> None:
    """Write `source`, which is complete, into `folder`: the cameras of the first moment, and the head moves.

    head: the model of the tracking, its static offset applied. Raises utils.atomic.WriteError, OSError, and ValueError
    where the cameras move against one another, which this layout has no place for, or naming a picture.
    """
    joint = RootJoint(head)
    roots = root_poses(source.frames, joint, {})
    places: dict[str, tuple[conventions.Floats, conventions.Floats]] = {}
    lenses = {}
    for frame in source.frames:
        R, t = camera_before(frame, roots[frame.time], joint.of(frame))
        known = places.setdefault(_view(frame.view), (R, t))
        if max(np.abs(known[0] - R).max(), np.abs(known[1] - t).max()) > STILL:
            raise ValueError(f"layout nersemble: its cameras stand still, but camera {frame.view} has moved against "
                             f"the others in {frame.image_path.name}")
        lenses[_view(frame.view)] = frame.camera.K.astype(float).tolist()
    write_json(folder / CAMERAS, {
        "world_2_cam": {view: np.vstack([conventions.to_world_to_camera(*place, "opencv"), [0, 0, 0, 1]]).tolist()
                        for view, place in places.items()}, "intrinsics": lenses})
    for frame in reversed(source.frames):
        write_npz(folder / "flame_param" / f"{frame.time:05d}.npz", codes_of(frame, roots[frame.time], source, head))
    write_head_name(folder, source)
    write_pictures(source.frames, lambda frame: folder / "images" / f"cam_{_view(frame.view)}_{frame.time:05d}.png",
                   lambda frame: folder / "alpha_maps" / f"cam_{_view(frame.view)}_{frame.time:05d}.png")


def _view(name: str) -> str:
    return name or "0"
