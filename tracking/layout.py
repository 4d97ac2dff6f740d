"""The data set that track.py writes: the tracker layout of scene/readers/tracker.py, and tracking.json.

    checkpoint/%05d.frame  images/%05d.png (RGBA)  images.HQ/%05d.png (--hr)  canonical.obj  head.json  tracking.json

Of several cameras the first three lie in cameras/NAME, and equal numbers are the same moment.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flame import Head, pose_head
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from tracking.footage import ByteImage
from tracking.records import Fit
from utils.images import encode_image
from utils.tracker_files import obj_text, tracker_record

CANONICAL_JAW = np.radians(12.0)  # trackers open the jaw of canonical.obj by 12 degrees

ReadImage = Callable[[int], ByteImage]


def write_data_set(folder: Path, head: Head, head_name: str, fit: Fit, size: int) -> None:
    """Everything but pictures and tracking.json, into a fresh `folder` (an old one is removed)."""
    shutil.rmtree(folder, ignore_errors=True)
    write_records(folder, fit, size)
    write_still(folder, head, head_name, fit)


def write_records(folder: Path, fit: Fit, size: int, first: int = 0) -> None:
    """checkpoint/%05d.frame of one camera. first: the frames before it are there already."""
    (folder / "checkpoint").mkdir(parents=True, exist_ok=first > 0)
    for index in range(first, len(fit)):
        codes = {name: getattr(fit, name)[index] for name in ("expression", "jaw", "eyes", "eyelids")}
        record = tracker_record(index, codes | {"shape": fit.shape}, fit.R[index], fit.t[index], fit.K, size)
        torch.save(record, folder / "checkpoint" / f"{index:05d}.frame")


def write_still(folder: Path, head: Head, head_name: str, fit: Fit) -> None:
    """canonical.obj and head.json: what all pictures, and all cameras, share."""
    (folder / "canonical.obj").write_text(_canonical(head, fit), encoding="utf-8")
    (folder / "head.json").write_text(json.dumps({"head": head_name}) + "\n", encoding="utf-8")


def write_rgba(folder: Path, index: int, rgba: ByteImage) -> None:
    """images/%05d.png or images.HQ/%05d.png [S,S,4]: colour as filmed, not multiplied by alpha."""
    folder.mkdir(exist_ok=True)
    (folder / f"{index:05d}.png").write_bytes(encode_image(rgba, ".png"))


def _canonical(head: Head, fit: Fit) -> str:
    still: dict[str, Any] = {
        "expression": torch.zeros(1, head.n_expression), "eyelids": torch.zeros(1, 2),
        "jaw": matrix_to_6d(matrix_from_axis_angle(torch.tensor([[CANONICAL_JAW, 0, 0]], dtype=torch.float32))),
        "eyes": torch.tensor([[1.0, 0, 0, 0, 1, 0] * 2]),
    }
    posed = pose_head(head, torch.from_numpy(np.ascontiguousarray(fit.shape)), **still)
    return obj_text(posed.vertices[0].numpy(), head.faces.numpy())
