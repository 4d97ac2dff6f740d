"""The inverse of scene/readers/insta_transforms.py: pictures, cameras, expression codes and posed meshes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from flame import Head, pose_head
from flame.codes import fit_code
from scene import conventions
from scene.frame import Frame
from scene.readers.source import Source
from scene.writers.common import refuse_neck, refuse_several_views, write_head_name, write_pictures
from utils.atomic import write_json, write_text
from utils.tracker_files import obj_text

TEST_FRAMES, VALIDATION_FRAMES = 350, 20


def write_insta_transforms(folder: Path, source: Source, head: Head) -> None:
    """Write `source`, which is complete, into `folder`; all codes but the expression go into the meshes of `head`.

    head: the model of the tracking, its static offset applied, which is in the meshes too. Raises
    utils.atomic.WriteError, OSError, and ValueError for several cameras, for a neck (INSTA's head has none that moves),
    or naming a picture.
    """
    refuse_several_views(source, "insta_transforms")
    refuse_neck(source, "insta_transforms")
    for frame in source.frames:
        name = f"{frame.index:05d}"
        codes = "".join(f"{code:.9g}\n" for code in frame.tracking.expression)
        write_text(folder / "flame" / "exp" / f"{name}.txt", codes)
        write_text(folder / "meshes" / f"{name}.obj", obj_text(_mesh(frame, source, head), head.faces.numpy()))
    frames = [_entry(frame) for frame in source.frames]
    held_out = min(TEST_FRAMES, len(frames) // 5)
    parts = {"": frames, "_train": frames[:len(frames) - held_out], "_test": frames[len(frames) - held_out:],
             "_val": frames[-VALIDATION_FRAMES:]}
    for part, some in parts.items():
        write_json(folder / f"transforms{part}.json", _lens(source.frames[0]) | {"frames": some})
    write_head_name(folder, source)
    write_pictures(source.frames, lambda frame: folder / "images" / f"{frame.index:05d}.png")


def _mesh(frame: Frame, source: Source, head: Head) -> conventions.Floats:
    """Posed vertices [V,3]; the identity of the first frame serves all."""
    def row(code: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(code.astype(np.float64))[None]

    tracking, where = frame.tracking, str(frame.image_path)
    shape = fit_code(source.frames[0].tracking.shape, head.n_shape, "shape", where)
    expression = fit_code(tracking.expression, head.n_expression, "expression", where)
    turns = (row(code) for code in (tracking.jaw, tracking.eyes, tracking.eyelids))
    posed = pose_head(head, row(shape)[0], row(expression), *turns)
    return posed.vertices[0].numpy()


def _lens(frame: Frame) -> dict[str, Any]:
    """What stands at the top of transforms.json."""
    K, width, height = frame.camera.K.astype(float), frame.camera.width, frame.camera.height
    angles = [2 * float(np.arctan(size / (2 * focal))) for size, focal in ((width, K[0, 0]), (height, K[1, 1]))]
    return {"w": width, "h": height, "cx": K[0, 2], "cy": K[1, 2], "fl_x": K[0, 0], "fl_y": K[1, 1],
            "camera_angle_x": angles[0], "camera_angle_y": angles[1], "x_fov": np.degrees(angles[0]),
            "y_fov": np.degrees(angles[1]), "integer_depth_scale": 1 / 1000}


def _entry(frame: Frame) -> dict[str, Any]:
    """One element of `frames`."""
    name = f"{frame.index:05d}"
    matrix = conventions.to_camera_to_world(frame.camera.R, frame.camera.t, "opencv")
    return {"transform_matrix": matrix.tolist(), "file_path": f"images/{name}.png", "mesh_path": f"meshes/{name}.obj",
            "exp_path": f"flame/exp/{name}.txt"}
