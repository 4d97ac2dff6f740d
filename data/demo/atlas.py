"""The cylinder that skin detail is painted on: (angle around the head, height) in the head model's own space.

All painting is done in metres: `s` runs along the cylinder (0 in front, positive to the subject's left), `y` upwards.
Positions are those of the template mesh, so a detail sticks to the skin whatever the identity and the expression.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Image = NDArray[np.float32]

AXIS_Z = -0.035      # metres: the cylinder's axis stands inside the skull, so that the face is seen head-on
RADIUS = 0.085       # metres: nominal, turns angles into lengths
REMAP_ROW = 1024     # cv2.remap takes images, not lists, and no side beyond 32767


@dataclass(frozen=True)
class Grid:
    """A rectangle of the cylinder at `density` pixels per metre: s in [-half_width, half_width], y in [low, high]."""

    half_width: float
    low: float
    high: float
    density: float

    @property
    def width(self) -> int:
        return round(2 * self.half_width * self.density)

    @property
    def height(self) -> int:
        return round((self.high - self.low) * self.density)

    def coordinates(self) -> tuple[Image, Image]:
        """s [1,W] and y [H,1] of the pixel centres."""
        s = (np.arange(self.width) + 0.5) / self.density - self.half_width
        y = self.high - (np.arange(self.height) + 0.5) / self.density
        return s[None].astype(np.float32), y[:, None].astype(np.float32)

    def pixel(self, s: Floats, y: Floats) -> tuple[Image, Image]:
        """Column and row (pixel centres at whole numbers, as cv2 counts) of points."""
        column = (s + self.half_width) * self.density - 0.5
        row = (self.high - y) * self.density - 0.5
        return column.astype(np.float32), row.astype(np.float32)

    def sample(self, image: Image, s: Floats, y: Floats) -> Image:
        """Bilinear values [M,C] of image [H,W,C] at M points; the sides wrap around, the ends repeat."""
        column, row = self.pixel(s, np.clip(y, self.low + 1e-3, self.high - 1e-3))
        count = len(column)
        rows = -(-count // REMAP_ROW)
        places = np.zeros((2, rows * REMAP_ROW), np.float32)
        places[0, :count], places[1, :count] = column, row
        columns, lines = places.reshape(2, rows, REMAP_ROW)
        values = cv2.remap(image, columns, lines, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        return np.asarray(values.reshape(rows * REMAP_ROW, -1)[:count], dtype=np.float32)


SKIN = Grid(np.pi * RADIUS, -0.140, 0.145, 4000.0)
FRONT = Grid(0.115, -0.115, 0.095, 2500.0)  # where expressions wrinkle the skin


def cylinder(points: Floats) -> tuple[Floats, Floats]:
    """(s, y) in metres of template positions [M,3]."""
    return np.arctan2(points[..., 0], points[..., 2] - AXIS_Z) * RADIUS, points[..., 1]


def smoothstep(low: float, high: float, value: Floats) -> Floats:
    """0 below `low`, 1 above `high` (or the other way round for low > high), smooth between."""
    x = np.clip((value - low) / (high - low), 0, 1)
    return x * x * (3 - 2 * x)


def noise(grid: Grid, scale: float, rng: np.random.Generator) -> Image:
    """Smooth noise [H,W] with features of `scale` metres, mean 0, standard deviation 1, seamless around the head."""
    pixels = max(scale * grid.density, 1.0)
    columns, rows = max(round(grid.width / pixels), 2), max(round(grid.height / pixels) + 3, 4)
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    coarse = np.pad(coarse, ((0, 0), (4, 4)), mode="wrap")
    margin = 4 * grid.width / columns
    x = (np.arange(grid.width) + margin + 0.5) * coarse.shape[1] / (grid.width + 2 * margin) - 0.5
    y = (np.arange(grid.height) + 0.5) / pixels + 0.5
    columns_at, rows_at = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    field = cv2.remap(coarse, columns_at, rows_at, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.asarray((field - field.mean()) / field.std(), dtype=np.float32)


def slopes(height: Image, grid: Grid) -> Image:
    """Rise per metre along s and along y, [H,W,2], of a height field [H,W] in metres."""
    along_rows, along_columns = np.gradient(height)
    return np.stack([along_columns, -along_rows], axis=2) * np.float32(grid.density)


def paint_polygon(grid: Grid, s: Floats, y: Floats, blur: float) -> Image:
    """[H,W]: 1 inside the polygon through (s, y), 0 outside, edges softened over `blur` metres."""
    column, row = grid.pixel(s, y)
    mask = np.zeros((grid.height, grid.width), np.float32)
    # Sixteenths of a pixel keep the outline smooth.
    corners = np.rint(np.stack([column, row], axis=1) * 16).astype(np.int32)
    cv2.fillPoly(mask, [corners], 1.0, cv2.LINE_8, 4)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), max(blur * grid.density, 0.3)), dtype=np.float32)


def distance_to_curve(grid: Grid, s: Floats, y: Floats) -> tuple[Image, Image]:
    """Distance [H,W] to a polyline in metres (positive to the right of its direction), and the place on it, 0 .. 1."""
    gs, gy = grid.coordinates()
    best = np.full((grid.height, grid.width), np.inf, np.float32)
    signed, place = best.copy(), np.zeros_like(best)
    count = len(s) - 1
    for i in range(count):
        ds, dy = s[i + 1] - s[i], y[i + 1] - y[i]
        length = np.hypot(ds, dy)
        along = np.clip(((gs - s[i]) * ds + (gy - y[i]) * dy) / length**2, 0, 1)
        off_s, off_y = gs - s[i] - along * ds, gy - y[i] - along * dy
        distance = np.hypot(off_s, off_y).astype(np.float32)
        closer = distance < best
        best = np.where(closer, distance, best)
        side = np.where(off_s * dy - off_y * ds >= 0, 1, -1)
        signed = np.where(closer, distance * side, signed).astype(np.float32)
        place = np.where(closer, (i + along) / count, place).astype(np.float32)
    return signed, place
