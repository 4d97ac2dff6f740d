"""What lets a user judge the tracking: a video of mesh, landmarks and matte over the footage, and a plot of errors."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tracking.footage import ByteImage, Dropped
from tracking.mesh_view import Drawing
from tracking.records import Floats
from tracking.verdict import BLURRED, Quality
from utils.atomic import write_with

# Colours of the mesh by its brightness. Squared: relief shows better than under true light.
SHADES = np.rint((0.15 + 0.85 * (np.arange(256)[None, :, None] / 255) ** 2) * (90, 160, 235)).astype(np.uint8)
LANDMARK_COLOUR = (70, 255, 90)
DOT = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])  # the pixels of a landmark
BEHIND = np.array([52, 150, 84], np.uint8)  # a green that no skin or hair has


def preview_frame(drawing: Drawing, rgb: ByteImage, alpha: ByteImage, landmarks: Floats) -> ByteImage:
    """Three panels beside one another: footage with landmarks, with the fitted head, and cut out by the matte.

    drawing: [S,S]; rgb and alpha are resized to it. landmarks [478,2] in pixels of rgb, NaN where there are none.
    Returns uint8 [S,3S,3].
    """
    size, scale = len(drawing.covered), len(drawing.covered) / len(rgb)
    how = cv2.INTER_LINEAR if scale > 0.5 else cv2.INTER_AREA  # several times faster, and here as good
    footage, matte = (np.asarray(cv2.resize(image, (size, size), interpolation=how), np.uint8)
                      for image in (rgb, alpha))
    share = matte.astype(np.float32) / np.float32(255)
    dotted = footage.copy()
    dots = np.rint(landmarks[np.isfinite(landmarks).all(axis=1)] * scale - 0.5).astype(int)
    column, row = (dots[:, None] + DOT).clip(0, size - 1).reshape(-1, 2).T
    dotted[row, column] = LANDMARK_COLOUR
    mixed = cv2.addWeighted(footage, 0.4, cv2.LUT(cv2.merge((drawing.brightness,) * 3), SHADES), 0.6, 0)
    mixed = cv2.copyTo(mixed, drawing.covered.astype(np.uint8), footage.copy())
    cut_out = cv2.blendLinear(footage, np.full_like(footage, BEHIND), share, 1 - share)
    return np.concatenate([dotted, mixed, cut_out], axis=1)


def write_error_plot(
    path: Path, time: NDArray[np.floating], quality: Quality, dropped: list[Dropped], title: str
) -> None:
    """A PNG: landmark error, turn of the head and sharpness over time; left-out pictures as marks along the axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and needed only now
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=100)
    figure.subplots_adjust(left=0.09, right=0.98, top=0.95, bottom=0.07, hspace=0.08)
    axes = figure.subplots(3, 1, sharex=True)
    rows = [(quality.landmark_error, "landmark error\n(pixels of the crop)"),
            (quality.yaw, "turn of the head\n(degrees)"), (quality.sharpness, "sharpness")]
    for axis, (values, label) in zip(axes, rows, strict=True):
        axis.plot(time, values, linewidth=1, color="#2864a0")
        axis.set_ylabel(label)
        axis.yaxis.set_label_coords(-0.05, 0.5)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(bottom=0)
    axes[2].set_ylim(bottom=0)
    axes[2].axhline(BLURRED, color="#b03030", linewidth=0.8, linestyle="--", label="blurred below")
    if dropped:
        axes[0].plot([d.time for d in dropped], np.zeros(len(dropped)), "|", color="#b03030", markersize=12,
                     label="left out")
        axes[0].legend(loc="upper right")
    axes[2].legend(loc="upper right")
    axes[2].set_xlabel("seconds of the clip")
    axes[0].set_title(title)
    FigureCanvasAgg(figure)
    write_with(path, lambda temporary: figure.savefig(temporary))
