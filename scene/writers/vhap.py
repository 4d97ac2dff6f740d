"""The inverse of scene/readers/vhap.py: an export as VHAP makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flame import Head
from scene import conventions
from scene.frame import Frame
from scene.readers.roots import RootJoint, camera_before, root_seen
from scene.readers.source import RootPose, Source
from scene.writers.common import write_head_name, write_pictures
from utils.arrays import write_npz
from utils.atomic import write_json

ONE_CAMERA = conventions.from_camera_to_world(np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]), "opengl")
"""Where exports of one camera have it: at (0, 0, 1), looking along -z; the head moves."""

TRAIN_SHARE = 0.7  # of the times
VALIDATION_VIEW = 8


def write_vhap(folder: Path, source: Source, head: Head) -> None:
    """Write `source`, which is complete (`Source.completed`), into `folder` as VHAP exports.

    The cameras stand still and the head moves, as far as that is so: what a camera moves against the others goes into
    its own matrices. `head`: the model of the tracking, its static offset applied; it says where the root joint lies.
    Eyelids, which VHAP does not track, become an array of ours that other programs do not ask for. Raises
    utils.atomic.WriteError, OSError, and ValueError naming a picture.
    """
    views = sorted({frame.view for frame in source.frames})
    joint = RootJoint(head)
    roots = root_poses(source.frames, joint, {} if len(views) > 1 else {views[0]: ONE_CAMERA})
    entries = []
    for frame in source.frames:
        camera = camera_before(frame, roots[frame.time], joint.of(frame))
        entries.append(_entry(frame, views.index(frame.view), camera))
    first = {frame.time: frame for frame in reversed(source.frames)}
    for time, frame in first.items():
        write_npz(folder / _codes_name(time), codes_of(frame, roots[time], source, head))
    write_head_name(folder, source)
    _write_transforms(folder, entries)
    names = {frame.index: entry for frame, entry in zip(source.frames, entries, strict=True)}
    write_pictures(source.frames, lambda frame: folder / names[frame.index]["file_path"],
                   lambda frame: folder / names[frame.index]["fg_mask_path"])


def root_poses(frames: tuple[Frame, ...], joint: RootJoint,
                known: dict[str, tuple[conventions.Floats, conventions.Floats]]) -> dict[int, RootPose]:
    """Root pose of each moment, from the first of its cameras whose place is known; the others' follow from it.

    known: view -> R, t; views that are not in it are added where they are first seen.
    """
    moments: dict[int, list[Frame]] = {}
    for frame in frames:
        moments.setdefault(frame.time, []).append(frame)
    roots = {}
    for time, seen in moments.items():
        frame = next((frame for frame in seen if frame.view in known), seen[0])
        place = known.get(frame.view, (frame.camera.R.astype(np.float64), frame.camera.t.astype(np.float64)))
        roots[time] = root_seen(frame, *place, joint.of(frame))
        for frame in seen:
            known.setdefault(frame.view, camera_before(frame, roots[time], joint.of(frame)))
    return roots


def _codes_name(time: int) -> str:
    return f"flame_param/{time:05d}.npz"


def codes_of(frame: Frame, root: RootPose, source: Source, head: Head) -> dict[str, Any]:
    """The arrays of flame_param/TTTTT.npz."""
    tracking = frame.tracking
    turns = {"jaw_pose": tracking.jaw, "eyes_pose": tracking.eyes}
    neck = np.zeros(3) if tracking.neck is None else conventions.turns_of_six(tracking.neck)
    offset = np.zeros((head.n_vertices, 3)) if source.static_offset is None else source.static_offset
    arrays = {"translation": root.t, "rotation": conventions.turn_of_matrix(root.R), "neck_pose": neck,
              **{name: conventions.turns_of_six(six) for name, six in turns.items()},
              "expr": tracking.expression, "static_offset": offset}
    if tracking.eyelids.any():
        arrays["eyelids"] = tracking.eyelids
    return {"shape": tracking.shape} | {name: np.asarray(array, np.float32)[None] for name, array in arrays.items()}


def _entry(frame: Frame, view: int, camera: tuple[conventions.Floats, conventions.Floats]) -> dict[str, Any]:
    """One element of `frames`."""
    K, width, height = frame.camera.K.astype(float), frame.camera.width, frame.camera.height
    name = f"{frame.time:05d}_{view:02d}.png"
    return {
        "timestep_index": frame.time, "timestep_index_original": frame.time, "timestep_id": f"{frame.time:05d}",
        "camera_index": view, "camera_id": frame.view or str(view),
        "cx": K[0, 2], "cy": K[1, 2], "fl_x": K[0, 0], "fl_y": K[1, 1], "h": height, "w": width,
        "camera_angle_x": 2 * float(np.arctan(width / (2 * K[0, 0]))),
        "camera_angle_y": 2 * float(np.arctan(height / (2 * K[1, 1]))),
        "transform_matrix": conventions.to_camera_to_world(*camera, "opengl").tolist(),
        "file_path": f"images/{name}", "fg_mask_path": f"fg_masks/{name}", "flame_param_path": _codes_name(frame.time),
    }


def _write_transforms(folder: Path, entries: list[dict[str, Any]]) -> None:
    """transforms.json and its three parts: the first times train, of those one camera validates; the rest tests."""
    times = sorted({entry["timestep_index"] for entry in entries})
    views = sorted({entry["camera_index"] for entry in entries})
    early = set(times[:max(1, round(TRAIN_SHARE * len(times)))])
    validating = VALIDATION_VIEW if VALIDATION_VIEW in views else views[-1] if len(views) > 1 else None
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for entry in entries:
        part = ("test" if entry["timestep_index"] not in early else
                "val" if entry["camera_index"] == validating else "train")
        parts[part].append(entry)
    lens = ("cx", "cy", "fl_x", "fl_y", "h", "w", "camera_angle_x", "camera_angle_y")
    for name, chosen in {"transforms": entries, **{f"transforms_{part}": some for part, some in parts.items()}}.items():
        shared = {key: entries[0][key] for key in lens}
        write_json(folder / f"{name}.json", shared | {
            "frames": chosen, "timestep_indices": sorted({entry["timestep_index"] for entry in chosen}),
            "camera_indices": sorted({entry["camera_index"] for entry in chosen})})
