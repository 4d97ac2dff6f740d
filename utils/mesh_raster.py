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
    x, y = np.asarray(pixels, np.float64).T
    usable = (np.asarray(depth) > NEAR) & np.isfinite(x) & np.isfinite(y)
    x, y, z = (np.where(usable, values, other) for values, other in ((x, 0.0), (y, 0.0), (depth, 1.0)))
    whole = _Setup.of(x, y, 1 / z.astype(np.float64), faces.T)
    keep = usable[faces[:, 0]] & usable[faces[:, 1]] & usable[faces[:, 2]]
    keep &= whole.area < 0 if cull_back else whole.area != 0  # v points down: counter-clockwise in the world is
    ids = np.flatnonzero(keep)                                # clockwise here
    some = whole.of_triangles(ids)
    low_x, high_x = _sampled(some.x, some.edge1_x, some.edge2_x, width)
    low_y, high_y = _sampled(some.y, some.edge1_y, some.edge2_y, height)
    hit = np.flatnonzero((low_x <= high_x) & (low_y <= high_y))
    ids, some = ids[hit], some.of_triangles(hit)
    low_x, high_x, low_y, high_y = low_x[hit], high_x[hit], low_y[hit], high_y[hit]
    key = np.full(width * height, EMPTY, dtype=np.uint64)
    for chunk in _chunks(high_y - low_y + 1):
        spans = _spans(some.of_triangles(chunk), low_x[chunk], high_x[chunk], low_y[chunk], high_y[chunk])
        _draw(spans, ids[chunk], width, key)
    return whole, key


def _sampled(first: Floats, edge1: Floats, edge2: Floats, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first and last of `count` columns (or rows) whose middles triangles [F] reach."""
    low = first + np.minimum(0, np.minimum(edge1, edge2))
    high = first + np.maximum(0, np.maximum(edge1, edge2))
    return (np.ceil(np.clip(low - 0.5, 0, count)).astype(np.int64),
            np.floor(np.clip(high - 0.5, -1, count - 1)).astype(np.int64))


@dataclass(frozen=True, eq=False)
class _Setup:
    """Per triangle, each [F]: first corner, its edges to the others, twice the signed area, 1 / depth of the corners.

    One array for each number, since NumPy gathers and compares those several times faster than rows of two or three.
    """

    x: Floats
    y: Floats
    edge1_x: Floats
    edge1_y: Floats
    edge2_x: Floats
    edge2_y: Floats
    area: Floats
    inverse: Floats
    inverse1: Floats
    inverse2: Floats

    @staticmethod
    def of(x: Floats, y: Floats, inverse: Floats, corners: NDArray[np.integer]) -> _Setup:
        """Of vertices [V], corners [3,F]."""
        a, b, c = corners
        xa, ya = x[a], y[a]
        edge1_x, edge1_y, edge2_x, edge2_y = x[b] - xa, y[b] - ya, x[c] - xa, y[c] - ya
        return _Setup(xa, ya, edge1_x, edge1_y, edge2_x, edge2_y, edge1_x * edge2_y - edge1_y * edge2_x,
                      inverse[a], inverse[b], inverse[c])

    def of_triangles(self, which: NDArray[np.int64] | slice) -> _Setup:
        return _Setup(*(values[which] for values in vars(self).values()))


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
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _spans(
    setup: _Setup, low_x: NDArray[np.int64], high_x: NDArray[np.int64], low_y: NDArray[np.int64],
    high_y: NDArray[np.int64],
) -> _Spans:
    """Where rows of samples cross triangles: all three barycentric coordinates, linear in x, are at least 0 there."""
    owner, row = _numbered(high_y - low_y + 1)
    row += low_y[owner]
    scale = 1 / setup.area
    slope1, slope2 = setup.edge2_y * scale, -setup.edge1_y * scale
    fall1, fall2 = setup.edge2_x * scale, setup.edge1_x * scale
    y = row + 0.5 - setup.y[owner]
    at1 = (-setup.x * slope1)[owner] - y * fall1[owner]  # at the row's left end
    at2 = (-setup.x * slope2)[owner] + y * fall2[owner]
    left, right = (low_x + 0.5)[owner], (high_x + 0.5)[owner]
    for at, slope in ((at1, slope1), (at2, slope2), (1 - at1 - at2, -(slope1 + slope2))):
        steep = slope[owner]
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = (-EDGE_SLACK - at) / steep  # a level edge has the row on one side: minus or plus infinity
        np.maximum(left, crossing, out=left, where=steep > 0)
        np.minimum(right, crossing, out=right, where=steep < 0)
        right[(steep == 0) & (at < -EDGE_SLACK)] = -np.inf
    first = np.ceil(left - 0.5)
    count = np.maximum(np.floor(right - 0.5) - first + 1, 0).astype(np.int64)
    step1, step2 = setup.inverse1 - setup.inverse, setup.inverse2 - setup.inverse
    at_zero = setup.inverse[owner] + at1 * step1[owner] + at2 * step2[owner]
    return _Spans(owner, row, first.astype(np.int64), count, at_zero, (slope1 * step1 + slope2 * step2)[owner])


def _draw(spans: _Spans, ids: NDArray[np.int64], width: int, key: NDArray[np.uint64]) -> None:
    """Keep the nearest of each pixel's samples in `key` [H*W]: depth bits over triangle number."""
    start = spans.at_zero + spans.slope * (spans.first + 0.5)  # 1 / depth of the first sample
    place = spans.row * width + spans.first
    number = ids[spans.triangle].astype(np.uint64)
    for chunk in _chunks(spans.count):
        owner, step = _numbered(spans.count[chunk])
        depth = 1 / (start[chunk][owner] + spans.slope[chunk][owner] * step)
        # The bits of positive floats are ordered as the floats are.
        bits = depth.astype(np.float32).view(np.uint32).astype(np.uint64)
        np.minimum.at(key, place[chunk][owner] + step, (bits << np.uint64(32)) | number[chunk][owner])


def _resolve(key: NDArray[np.uint64], setup: _Setup, width: int, height: int) -> MeshBuffers:
    """Barycentric coordinates and depth of the winners."""
    covered = np.flatnonzero(key != EMPTY)
    winner = (key[covered] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    own = setup.of_triangles(winner)
    x, y = covered % width + 0.5 - own.x, covered // width + 0.5 - own.y
    w1 = (x * own.edge2_y - y * own.edge2_x) / own.area
    w2 = (own.edge1_x * y - own.edge1_y * x) / own.area
    weighted = np.stack([(1 - w1 - w2) * own.inverse, w1 * own.inverse1, w2 * own.inverse2], axis=1)
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
