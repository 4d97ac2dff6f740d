"""Triangle meshes to pixels: which triangle, where in it, how deep. Vectorised NumPy, no GPU.

Pixel (column i, row j) is sampled at its centre, (i + 0.5, j + 0.5) in the coordinates that K projects to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

NEAR = 1e-3          # metres; triangles that reach in front of it are left out, not clipped
EDGE_SLACK = 1e-6    # barycentric; a sample on a shared edge must not fall between both triangles by rounding
CHUNK = 1 << 21      # samples tested at once: bounds the temporary memory to some 50 MB
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True, eq=False)
class MeshBuffers:
    """The nearest triangle of every pixel.

    triangle: int32 [H,W], -1 where there is none. barycentric: float32 [H,W,3], perspective-correct weights of the
    triangle's corners, 0 where there is none. depth: float32 [H,W], metres along the view axis, infinite where none.
    """

    triangle: NDArray[np.int32]
    barycentric: NDArray[np.float32]
    depth: NDArray[np.float32]


def project(points: Floats, R: Floats, t: Floats, K: Floats) -> tuple[Floats, Floats]:
    """Pixels [N,2] (u right, v down) and depth [N] of points [N,3] through a camera (world to camera R, t; pixel K)."""
    camera = points @ R.T + t
    depth = camera[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):  # points in the camera plane; callers cut by depth
        pixels = (camera @ K[:2].T) / depth[:, None]
    return pixels, depth


def rasterize_mesh(
    pixels: Floats, depth: Floats, faces: NDArray[np.integer], width: int, height: int, cull_back: bool = False
) -> MeshBuffers:
    """Rasterise a projected mesh (see `project`): pixels [V,2], depth [V], faces [F,3] -> buffers of height x width.

    The nearest surface wins; of equally near ones the triangle with the lower number. cull_back drops triangles whose
    corners run clockwise as seen in the world, that is, whose back is turned to the camera. Triangles nearer than
    1 mm, non-finite or without area are left out.
    """
    corners = np.asarray(pixels, dtype=np.float64)[faces]
    inverse_depth = 1 / np.maximum(np.asarray(depth, dtype=np.float64)[faces], 1e-12)
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = edge1[:, 0] * edge2[:, 1] - edge1[:, 1] * edge2[:, 0]
    keep = (inverse_depth.max(axis=1) < 1 / NEAR) & np.isfinite(corners).all(axis=(1, 2)) & (area != 0)
    if cull_back:
        keep &= area < 0  # v points down, so counter-clockwise in the world is clockwise here
    low = np.maximum(np.ceil(corners.min(axis=1) - 0.5), 0)
    high = np.minimum(np.floor(corners.max(axis=1) - 0.5), (width - 1, height - 1))
    keep &= (low <= high).all(axis=1)
    ids = np.flatnonzero(keep)
    key = np.full(width * height, EMPTY, dtype=np.uint64)
    setup = _Setup(corners[ids, 0], edge1[ids], edge2[ids], area[ids], inverse_depth[ids])
    for group, box in _groups(low[ids].astype(np.int64), high[ids].astype(np.int64), width, height):
        _draw(setup, ids, group, box, width, key)
    return _resolve(key, faces, corners, inverse_depth, area, width, height)


@dataclass(frozen=True, eq=False)
class _Setup:
    """Per triangle: first corner [F,2], its edges [F,2], twice the signed area [F], 1 / depth of the corners [F,3]."""

    origin: Floats
    edge1: Floats
    edge2: Floats
    area: Floats
    inverse_depth: Floats


@dataclass(frozen=True, eq=False)
class _Box:
    """Pixel boxes of one size: left and top [n], and their common width and height."""

    left: NDArray[np.int64]
    top: NDArray[np.int64]
    width: int
    height: int


def _groups(
    low: NDArray[np.int64], high: NDArray[np.int64], width: int, height: int
) -> Iterator[tuple[NDArray[np.int64], _Box]]:
    """Triangles whose boxes, rounded up to a few sizes, are equal; in chunks that bound the memory."""
    if len(low) == 0:
        return
    limit = np.array([width, height])
    size = high - low + 1
    # Sizes 1..4, then steps of a quarter octave: at most 20 % more samples an axis than the exact box.
    step = np.maximum(1, 2 ** np.floor(np.log2(np.maximum(size, 1)) - 2)).astype(np.int64)
    size = np.minimum((size + step - 1) // step * step, limit)
    low = np.minimum(low, limit - size)
    code = size[:, 0] * (height + 1) + size[:, 1]
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        box_width, box_height = (int(n) for n in size[order[start]])
        count = max(1, CHUNK // (box_width * box_height))
        for first in range(start, stop, count):
            group = order[first:min(first + count, stop)]
            yield group, _Box(low[group, 0], low[group, 1], box_width, box_height)


def _draw(
    setup: _Setup, ids: NDArray[np.int64], group: NDArray[np.int64], box: _Box, width: int, key: NDArray[np.uint64]
) -> None:
    """Test the samples of each triangle's box and keep the nearest in `key` [H*W]: depth bits over triangle number."""
    scale = 1 / setup.area[group]
    e1, e2 = setup.edge1[group], setup.edge2[group]
    dx = box.left + 0.5 - setup.origin[group, 0]
    dy = box.top + 0.5 - setup.origin[group, 1]
    columns, rows = np.arange(box.width), np.arange(box.height)[:, None]

    def plane(a: Floats, b: Floats) -> NDArray[np.float32]:  # a x + b y over the boxes [n,h,w]
        x = a[:, None, None] * (dx[:, None, None] + columns)
        return (x + b[:, None, None] * (dy[:, None, None] + rows)).astype(np.float32)

    w1 = plane(e2[:, 1] * scale, -e2[:, 0] * scale)
    w2 = plane(-e1[:, 1] * scale, e1[:, 0] * scale)
    inside = (w1 >= -EDGE_SLACK) & (w2 >= -EDGE_SLACK) & (w1 + w2 <= 1 + EDGE_SLACK)
    which, row, column = np.nonzero(inside)
    inverse = setup.inverse_depth[group][which]
    w1_hit, w2_hit = w1[inside].astype(np.float64), w2[inside].astype(np.float64)
    depth = 1 / (inverse[:, 0] * (1 - w1_hit - w2_hit) + inverse[:, 1] * w1_hit + inverse[:, 2] * w2_hit)
    # The bits of positive floats are ordered as the floats are.
    bits = depth.astype(np.float32).view(np.uint32).astype(np.uint64)
    pixel = (box.top[which] + row) * width + box.left[which] + column
    np.minimum.at(key, pixel, (bits << np.uint64(32)) | ids[group][which].astype(np.uint64))


def _resolve(
    key: NDArray[np.uint64], faces: NDArray[np.integer], corners: Floats, inverse_depth: Floats, area: Floats,
    width: int, height: int,
) -> MeshBuffers:
    """Barycentric coordinates and depth of the winners."""
    covered = np.flatnonzero(key != EMPTY)
    winner = (key[covered] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    corner = corners[winner]
    p = np.stack([covered % width + 0.5, covered // width + 0.5], axis=1) - corner[:, 0]
    e1, e2 = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    w1 = (p[:, 0] * e2[:, 1] - p[:, 1] * e2[:, 0]) / area[winner]
    w2 = (e1[:, 0] * p[:, 1] - e1[:, 1] * p[:, 0]) / area[winner]
    weighted = np.stack([1 - w1 - w2, w1, w2], axis=1) * inverse_depth[winner]
    total = weighted.sum(axis=1)
    triangle = np.full(width * height, -1, dtype=np.int32)
    triangle[covered] = winner
    barycentric = np.zeros((width * height, 3), dtype=np.float32)
    barycentric[covered] = weighted / total[:, None]
    depth = np.full(width * height, np.inf, dtype=np.float32)
    depth[covered] = 1 / total
    return MeshBuffers(
        triangle.reshape(height, width), barycentric.reshape(height, width, 3), depth.reshape(height, width)
    )
