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
CHUNK = 1 << 19      # rows or samples worked on at once: bounds the temporary memory to some 50 MB
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
    setup, key = _drawn(pixels, depth, faces, width, height, cull_back)
    return _resolve(key, setup, width, height)


def nearest_surface(
    pixels: Floats, depth: Floats, faces: NDArray[np.integer], width: int, height: int, cull_back: bool = False
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """`triangle` and `depth` of `rasterize_mesh`, in half of its time."""
    key = _drawn(pixels, depth, faces, width, height, cull_back)[1]
    empty = key == EMPTY
    triangle = np.where(empty, np.int32(-1), (key & np.uint64(0xFFFFFFFF)).astype(np.int32))
    nearest = np.where(empty, np.float32(np.inf), (key >> np.uint64(32)).astype(np.uint32).view(np.float32))
    return triangle.reshape(height, width), nearest.reshape(height, width)


def _drawn(
    pixels: Floats, depth: Floats, faces: NDArray[np.integer], width: int, height: int, cull_back: bool
) -> tuple[_Setup, NDArray[np.uint64]]:
    """All triangles, and for each pixel [H*W] the nearest one's number under the bits of its depth, or EMPTY."""
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
    whole = _Setup(corners[:, 0], edge1, edge2, area, inverse_depth)
    key = np.full(width * height, EMPTY, dtype=np.uint64)
    low, high = low[ids].astype(np.int64), high[ids].astype(np.int64)
    for chunk in _chunks(high[:, 1] - low[:, 1] + 1):
        some = ids[chunk]
        setup = _Setup(corners[some, 0], edge1[some], edge2[some], area[some], inverse_depth[some])
        _draw(_spans(setup, low[chunk], high[chunk]), some, width, key)
    return whole, key


@dataclass(frozen=True, eq=False)
class _Setup:
    """Per triangle: first corner [F,2], its edges [F,2], twice the signed area [F], 1 / depth of the corners [F,3]."""

    origin: Floats
    edge1: Floats
    edge2: Floats
    area: Floats
    inverse_depth: Floats


@dataclass(frozen=True, eq=False)
class _Spans:
    """Rows of triangles, each of one triangle (its number here [S]): row, first column and count of samples, all [S].

    1 / depth of the sample in column i is at_zero + slope * (i + 0.5).
    """

    triangle: NDArray[np.int64]
    row: NDArray[np.int64]
    first: NDArray[np.int64]
    count: NDArray[np.int64]
    at_zero: Floats
    slope: Floats


def _chunks(counts: NDArray[np.int64]) -> Iterator[slice]:
    """Neighbours whose counts [N] sum up to CHUNK at most, or single ones."""
    ends, first = np.cumsum(counts), 0
    while first < len(counts):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + CHUNK, side="right")))
        yield slice(first, last)
        first = last


def _numbered(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(0 counts[0] times, 1 counts[1] times, ...), and each one's number among its equals."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]


def _spans(setup: _Setup, low: NDArray[np.int64], high: NDArray[np.int64]) -> _Spans:
    """Where rows of samples cross triangles: all three barycentric coordinates, linear in x, are at least 0 there."""
    owner, row = _numbered(high[:, 1] - low[:, 1] + 1)
    row += low[owner, 1]
    scale = 1 / setup.area
    slope1, slope2 = setup.edge2[:, 1] * scale, -setup.edge1[:, 1] * scale
    x, y = -setup.origin[:, 0], row + 0.5 - setup.origin[owner, 1]  # of the row's left end, from the first corner
    at1 = (x * slope1)[owner] - y * (setup.edge2[:, 0] * scale)[owner]
    at2 = (x * slope2)[owner] + y * (setup.edge1[:, 0] * scale)[owner]
    left, right = low[owner, 0] + 0.5, high[owner, 0] + 0.5
    for at, slope in ((at1, slope1[owner]), (at2, slope2[owner]), (1 - at1 - at2, -(slope1 + slope2)[owner])):
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = (-EDGE_SLACK - at) / slope  # a level edge has the row on one side: minus or plus infinity
        left = np.where(slope > 0, np.maximum(left, crossing), left)
        right = np.where(slope < 0, np.minimum(right, crossing), right)
        right = np.where((slope == 0) & (at < -EDGE_SLACK), -np.inf, right)
    first = np.ceil(left - 0.5)
    count = np.maximum(np.floor(right - 0.5) - first + 1, 0).astype(np.int64)
    inverse = setup.inverse_depth
    step1, step2 = inverse[:, 1] - inverse[:, 0], inverse[:, 2] - inverse[:, 0]
    at_zero = inverse[owner, 0] + at1 * step1[owner] + at2 * step2[owner]
    return _Spans(owner, row, first.astype(np.int64), count, at_zero, (slope1 * step1 + slope2 * step2)[owner])


def _draw(spans: _Spans, ids: NDArray[np.int64], width: int, key: NDArray[np.uint64]) -> None:
    """Keep the nearest of each pixel's samples in `key` [H*W]: depth bits over triangle number."""
    for chunk in _chunks(spans.count):
        owner, column = _numbered(spans.count[chunk])
        column += spans.first[chunk][owner]
        depth = 1 / (spans.at_zero[chunk][owner] + spans.slope[chunk][owner] * (column + 0.5))
        # The bits of positive floats are ordered as the floats are.
        bits = depth.astype(np.float32).view(np.uint32).astype(np.uint64)
        triangle = ids[spans.triangle[chunk]].astype(np.uint64)
        np.minimum.at(key, (spans.row[chunk] * width)[owner] + column, (bits << np.uint64(32)) | triangle[owner])


def _resolve(key: NDArray[np.uint64], setup: _Setup, width: int, height: int) -> MeshBuffers:
    """Barycentric coordinates and depth of the winners."""
    covered = np.flatnonzero(key != EMPTY)
    winner = (key[covered] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    p = np.stack([covered % width + 0.5, covered // width + 0.5], axis=1) - setup.origin[winner]
    e1, e2 = setup.edge1[winner], setup.edge2[winner]
    w1 = (p[:, 0] * e2[:, 1] - p[:, 1] * e2[:, 0]) / setup.area[winner]
    w2 = (e1[:, 0] * p[:, 1] - e1[:, 1] * p[:, 0]) / setup.area[winner]
    weighted = np.stack([1 - w1 - w2, w1, w2], axis=1) * setup.inverse_depth[winner]
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
