"""The inverse of scene/readers/nerface.py, the head half a unit away as NerFace has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flame import Head
from scene import conventions
from scene.frame import Frame
from scene.readers.source import Source
from scene.writers.common import refuse_several_views, without_offset, write_head_name, write_pictures
from scene.writers.imavatar import flame_pose
from utils.atomic import write_json

DISTANCE = 0.5  # units from the camera to the head, on average
TEST_SHARE, VALIDATION_FRAMES = 0.1, 10


def write_nerface(folder: Path, source: Source, head: Head) -> None:
    """Write `source`, which is complete, into `folder`. Raises as `write_imavatar` does."""
    refuse_several_views(source, "nerface")
    without_offset(head, source)  # says that it is left out
    frames = source.frames
    scale = DISTANCE / float(np.mean([frame.camera.t[2] for frame in frames]))
    start = len(frames) - max(1, round(TEST_SHARE * len(frames)))
    names = [f"{'train' if index < start else 'test'}/f_{index:04d}" for index in range(len(frames))]
    entries = [_entry(frame, name, scale) for frame, name in zip(frames, names, strict=True)]
    camera = frames[0].camera
    K = camera.K.astype(float)
    shared = {"camera_angle_x": 2 * float(np.arctan(camera.width / (2 * K[0, 0]))), "scale": scale,
              "intrinsics": [-K[0, 0], K[1, 1], K[0, 2] / camera.width, K[1, 2] / camera.height],
              "shape_params": frames[0].tracking.shape.tolist(), "near": 0.2, "far": 0.8}
    for part, some in {"train": entries[:start], "val": [], "test": entries[start:]}.items():
        write_json(folder / f"transforms_{part}.json", shared | {"frames": some})
    write_head_name(folder, source)
    write_pictures(frames, lambda frame: folder / f"{names[frame.index]}.png")


def _entry(frame: Frame, name: str, scale: float) -> dict[str, Any]:
    matrix = conventions.to_camera_to_world(frame.camera.R, scale * frame.camera.t.astype(float), "opengl")
    return {"file_path": f"./{name}", "expression": frame.tracking.expression.tolist(), "bbox": [0.0, 1.0, 0.0, 1.0],
            "transform_matrix": matrix.tolist(), "pose": flame_pose(frame.tracking, np.zeros(3)).tolist(),
            "eyelids": frame.tracking.eyelids.tolist()}
