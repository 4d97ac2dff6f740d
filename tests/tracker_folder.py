"""A tiny tracker data set, written by hand, for tests of readers and data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

WIDTH, HEIGHT = 24, 20


def record(index: int, width: int = WIDTH, height: int = HEIGHT) -> dict[str, Any]:
    """One `.frame` dictionary; the camera differs by frame so that mix-ups show."""
    angle = 0.05 * index
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    rotation = np.diag([1.0, -1, -1]) @ rotation
    f32 = np.float32
    return {
        "flame": {
            "shape": np.full((1, 300), 0.1, f32), "exp": np.full((1, 100), 0.01 * index, f32),
            "jaw": np.array([[1, 0, 0, 0, 1, 0]], f32), "eyes": np.array([[1, 0, 0, 0, 1, 0] * 2], f32),
            "eyelids": np.array([[0.2, 0.3]], f32), "tex": np.zeros((1, 140), f32),
        },
        "opencv": {
            "R": rotation[None].astype(f32), "t": np.array([[0, 0, 0.6]], f32),
            "K": np.array([[[1.8 * width, 0, width / 2], [0, 1.8 * width, height / 2], [0, 0, 1]]], f32),
        },
        "img_size": np.array([[height, width]]), "frame_id": f"{index:05d}",
    }


def image(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """RGBA uint8: constant colour that tells the frame, alpha 255 on the left half, 128 on the right."""
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[..., :3] = (10 * index % 256, 100, 200)
    rgba[:, :width // 2, 3], rgba[:, width // 2:, 3] = 255, 128
    return rgba


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write grey [H,W], RGB [H,W,3] or RGBA [H,W,4] pixels of 8 or 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][:pixels.shape[2]]]
    assert cv2.imwrite(str(path), np.ascontiguousarray(pixels))


def write_record(folder: Path, index: int, content: dict[str, Any]) -> Path:
    path = folder / "checkpoint" / f"{index:05d}.frame"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def write_folder(folder: Path, frames: int = 4, mode: str = "insta") -> Path:
    """A well-formed data set in one of the three modes."""
    scale = 2 if mode == "hr" else 1
    for index in range(frames):
        write_record(folder, index, record(index))
        rgba = image(index, scale * WIDTH, scale * HEIGHT)
        if mode == "nerfbs":
            write_png(folder / "images" / f"{index:05d}.png", rgba[..., :3])
            write_png(folder / "image_mask" / f"mask_{index:05d}.png", np.repeat(rgba[..., 3:], 3, axis=2))
        else:
            write_png(folder / ("images.HQ" if mode == "hr" else "images") / f"{index:05d}.png", rgba)
    if mode == "nerfbs":
        write_png(folder / "bc.png", np.full((HEIGHT, WIDTH, 3), 77, np.uint8))
        (folder / "bc.png").rename(folder / "bc.jpg")  # readers go by content, not by name
    (folder / "canonical.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 1 1 0\nf 1 2 3\nf 2/1/1 4/2/2 3/3/3\n")
    return folder
