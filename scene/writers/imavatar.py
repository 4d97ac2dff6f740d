"""The inverse of scene/readers/imavatar.py: image/, mask/ and flame_params.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flame import Head
from scene import conventions
from scene.frame import Frame, Tracking
from scene.readers.imavatar import FILE, SCALE
from scene.readers.roots import RootJoint
from scene.readers.source import Source
from scene.writers.common import refuse_several_views, without_offset, write_head_name, write_pictures
from utils.atomic import write_json

AXES = np.diag([1.0, -1.0, -1.0])  # of a camera that looks along -z


def write_imavatar(folder: Path, source: Source, head: Head) -> None:
    """Write `source`, which is complete, into `folder`: the camera is only shifted, the head turns before it.

    head: the model of the tracking; it says where the root joint lies. A static offset has no place in this layout, and
    eyelids are an addition of ours. Raises utils.atomic.WriteError, OSError, and ValueError for several cameras, or
    naming a picture.
    """
    refuse_several_views(source, "imavatar")
    joint = RootJoint(without_offset(head, source))
    first = source.frames[0]
    K, width, height = first.camera.K.astype(float), first.camera.width, first.camera.height
    write_json(folder / FILE, {
        "frames": [_entry(frame, joint.of(frame)) for frame in source.frames],
        "intrinsics": [-K[0, 0] / width, K[1, 1] / height, K[0, 2] / width, K[1, 2] / height],
        "shape_params": first.tracking.shape.tolist(),
    })
    write_head_name(folder, source)
    write_pictures(source.frames, lambda frame: folder / "image" / f"{frame.index + 1}.png",
                   lambda frame: folder / "mask" / f"{frame.index + 1}.png")


def flame_pose(tracking: Tracking, root: conventions.Floats) -> conventions.Floats:
    """Axis-angle vectors of root (given, [3]), neck, jaw, left and right eye: [15]."""
    neck = np.zeros(3) if tracking.neck is None else conventions.turns_of_six(tracking.neck)
    return np.concatenate([root, neck, *map(conventions.turns_of_six, (tracking.jaw, tracking.eyes))])


def _entry(frame: Frame, joint: conventions.Floats) -> dict[str, Any]:
    """One element of `frames`. The root turns about its joint; the camera makes up for where that stays."""
    R, tracking = AXES @ frame.camera.R, frame.tracking
    t = AXES @ (frame.camera.t - AXES @ (joint - R @ joint))
    pose = flame_pose(tracking, conventions.turn_of_matrix(R))
    eyelids = {"eyelids": tracking.eyelids.tolist()} if tracking.eyelids.any() else {}
    return eyelids | {
        "file_path": f"./image/{frame.index + 1}", "expression": tracking.expression.tolist(),
        "pose": pose.tolist(), "world_mat": np.column_stack([np.eye(3), SCALE * t]).tolist(),
    }
