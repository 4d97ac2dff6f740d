"""What is drawn on top of a rendered picture: the head mesh and the centres of the Gaussians."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.mesh_raster import project, rasterize_mesh

MESH_OPACITY = 0.35
LINE_OPACITY = 0.55
DIMMED = 0.35  # what is left of the picture under the centres

Image = NDArray[np.uint8]
Floats = NDArray[np.floating]
Pinhole = tuple[Floats, Floats, Floats]  # world-to-camera R [3,3], t [3]; pixel K [3,3]


def draw_mesh(picture: Image, vertices: Floats, faces: NDArray[np.integer], camera: Pinhole) -> Image:
    """A copy of `picture` [H,W,3] under the half-transparent mesh: vertices [V,3], faces [F,3].

    Surfaces are shaded by how far they face the camera (white: straight at it), visible triangles outlined.
    """
    height, width = picture.shape[:2]
    pixels, depth = project(vertices, *camera)
    buffers = rasterize_mesh(pixels, depth, faces, width, height, cull_back=True)
    covered = buffers.triangle >= 0
    if not covered.any():
        return picture.copy()
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = -normals @ camera[0][2] / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
    shade = 255 * np.clip(0.15 + 0.85 * facing, 0, 1)
    result = picture.astype(np.float32)
    result[covered] += MESH_OPACITY * (shade[buffers.triangle[covered], None] - result[covered])
    lines = result.copy()
    seen = faces[np.unique(buffers.triangle[covered])]
    # cv2 draws on pixel centres at whole numbers, our centres lie at + 0.5; 4 binary digits behind the point.
    outlines = np.round((pixels[seen] - 0.5) * 16).astype(np.int32)
    cv2.polylines(lines, list(outlines), True, (90, 200, 255), 1, cv2.LINE_AA, 4)
    return np.rint(result + LINE_OPACITY * (lines - result)).clip(0, 255).astype(np.uint8)


def draw_centres(picture: Image, centres: Floats, colors: Image, camera: Pinhole) -> Image:
    """A dimmed copy of `picture` [H,W,3] with a dot at every centre [N,3], colours [N,3]; the nearest dot wins."""
    height, width = picture.shape[:2]
    pixels, depth = project(centres, *camera)
    inside = (depth > 0) & np.isfinite(pixels).all(1) & (pixels >= 0).all(1) & (pixels < (width, height)).all(1)
    order = np.flatnonzero(inside)[np.argsort(-depth[inside], kind="stable")]
    result = (picture * DIMMED).astype(np.uint8)
    column, row = pixels[order].astype(np.int64).T
    reach = 1 if min(width, height) >= 512 else 0
    for dy in range(reach + 1):
        for dx in range(reach + 1):
            result[np.minimum(row + dy, height - 1), np.minimum(column + dx, width - 1)] = colors[order]
    return result


def label(picture: Image, text: str, left: int, top: int) -> None:
    """Write `text` into the picture, light on dark, its upper left corner at (left, top)."""
    size = max(0.35, picture.shape[0] / 1400)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    cv2.rectangle(picture, (left, top), (left + width + 8, top + height + below + 6), (24, 24, 24), -1)
    cv2.putText(picture, text, (left + 4, top + height + 3), cv2.FONT_HERSHEY_SIMPLEX, size, (235, 235, 235), 1,
                cv2.LINE_AA)
