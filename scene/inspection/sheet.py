"""A contact sheet: sampled frames with the outlines of the projected mesh and of the mask."""

from __future__ import annotations

import cv2
import numpy as np

from scene.inspection.subject import Bits, Subject
from utils.images import ByteImage, letterbox, resize_area

TILE = 320  # pixels: longer side
COLUMNS = 4
MESH, MASK = (60, 220, 90), (255, 120, 40)  # green, orange
BACKDROP = 90  # grey under what is cut out


def draw_sheet(subject: Subject) -> ByteImage:
    """The sampled frames, uint8 RGB [H,W,3]: the mesh outlined in green, the mask in orange, its outside dimmed."""
    data, tiles = subject.dataset, []
    window = _tile(data.width, data.height)
    for sample in subject.drawn:
        rgba = data.rgba(sample.frame).astype(np.float32)
        alpha = rgba[..., 3:] / 255
        shown = rgba[..., :3] * (0.35 + 0.65 * alpha) + BACKDROP * 0.5 * (1 - alpha)
        tile = np.ascontiguousarray(resize_area(shown.astype(np.uint8), *_tile(*data.size(sample.frame))))
        _outline(tile, sample.mask, MASK)
        _outline(tile, sample.mesh, MESH)
        cv2.putText(tile, str(sample.frame), (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 1, cv2.LINE_AA)
        tiles.append(letterbox(tile, window))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    return np.vstack([np.hstack(tiles[start:start + COLUMNS]) for start in range(0, len(tiles), COLUMNS)])


def _tile(width: int, height: int) -> tuple[int, int]:
    scale = TILE / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _outline(tile: ByteImage, shape: Bits, colour: tuple[int, int, int]) -> None:
    """Draw the border of a shape, given on another raster, in place."""
    large = cv2.resize(shape.astype(np.float32), tile.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    contours, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tile, contours, -1, colour, 1)
