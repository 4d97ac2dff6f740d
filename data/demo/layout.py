"""Writing the demo subject as a tracker would: the layout that scene/readers/tracker.py reads, in its three modes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from data.demo.atlas import Floats
from data.demo.motion import Motion
from data.demo.render import intrinsics
from data.demo.subject import Codes, posed_vertices, rest_codes
from flame import Head
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from utils.images import ByteImage, encode_image, read_rgb
from utils.tracker_files import obj_text, tracker_record

CANONICAL_JAW = np.radians(12.0)          # trackers open the jaw of canonical.obj by 12 degrees
HQ_RATIO = 2
CAMERAS = "cameras"                       # the folder in which there is one for each of several cameras
MODES = ("insta", "nerfbs", "hr")
BACKGROUND_QUALITY = 95


def image_scale(mode: str) -> int:
    """How many times larger the images of a mode are than the tracker's raster."""
    return HQ_RATIO if mode == "hr" else 1


def write_still(folder: Path, head: Head, codes: Codes, mode: str, size: int, seed: int,
                cameras: Sequence[str] = ("",)) -> None:
    """Everything that is not per frame: folders, canonical.obj, head.json, and the background of "nerfbs".

    cameras: folders below `folder`, one a camera, in which records and images lie.
    """
    for camera in cameras:
        for name in ("checkpoint", "images.HQ" if mode == "hr" else "images"):
            (folder / camera / name).mkdir(parents=True)
    (folder / "canonical.obj").write_text(_canonical_obj(head, codes.shape), encoding="utf-8")
    (folder / "head.json").write_text(json.dumps({"head": "open"}) + "\n", encoding="utf-8")
    if mode == "nerfbs":
        (folder / "image_mask").mkdir()
        (folder / "bc.jpg").write_bytes(encode_image(make_background(size, seed), ".jpg", BACKGROUND_QUALITY))


def write_record(folder: Path, index: int, codes: Codes, motion: Motion, size: int) -> None:
    """checkpoint/%05d.frame of one frame, every array with a leading batch axis of 1."""
    torch.save(_record(index, codes, motion, size), folder / "checkpoint" / f"{index:05d}.frame")


def write_images(folder: Path, index: int, rgba: ByteImage, mode: str) -> None:
    """The image files of one frame; "nerfbs" composites over bc.jpg as a decoder reads it."""
    name = f"{index:05d}.png"
    if mode != "nerfbs":
        target = folder / ("images.HQ" if mode == "hr" else "images") / name
        target.write_bytes(encode_image(rgba, ".png"))
        return
    alpha = rgba[:, :, 3:].astype(np.float32) / 255
    photograph = rgba[:, :, :3] * alpha + read_rgb(folder / "bc.jpg") * (1 - alpha)
    (folder / "images" / name).write_bytes(encode_image(np.rint(photograph).astype(np.uint8), ".png"))
    (folder / "image_mask" / f"mask_{name}").write_bytes(encode_image(np.ascontiguousarray(rgba[:, :, 3]), ".png"))


def _record(index: int, codes: Codes, motion: Motion, size: int) -> dict[str, Any]:
    arrays = {name: getattr(codes, name)[index].numpy() for name in ("expression", "jaw", "eyes", "eyelids")}
    arrays["shape"] = codes.shape.numpy()
    return tracker_record(index, arrays, motion.R[index], motion.t[index], intrinsics(size), size)


def _canonical_obj(head: Head, shape: torch.Tensor) -> str:
    """The neutral mesh with the jaw opened, as trackers write it."""
    codes = rest_codes(head, shape)
    opened = matrix_to_6d(matrix_from_axis_angle(torch.tensor([[CANONICAL_JAW, 0.0, 0.0]], dtype=torch.float32)))
    vertices = posed_vertices(head, Codes(shape, codes.expression, opened, codes.eyes, codes.eyelids))[0]
    return obj_text(vertices, head.faces.numpy())


def make_background(size: int, seed: int) -> ByteImage:
    """A room out of focus: a lit wall with soft discs of light."""
    rng = np.random.default_rng((seed, 3))
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.array([0.50, 0.46, 0.42]) - 0.28 * y[..., None] + 0.16 * x[..., None] * np.array([0.6, 0.9, 1.2])
    for _ in range(26):
        image = _disc(image, x, y, rng)
    image = cv2.GaussianBlur(image, (0, 0), size / 90)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _disc(image: Floats, x: Floats, y: Floats, rng: np.random.Generator) -> Floats:
    distance = np.hypot(x - rng.random(), y - rng.random())
    colour = rng.uniform(0.2, 0.95, 3)
    return image + (colour - image) * (0.45 * (distance < rng.uniform(0.02, 0.13)))[..., None]
