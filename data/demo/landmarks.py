"""Where the features of the open head's face lie on the cylinder, from its embedded face-mesh landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.demo.atlas import Floats, Grid, Image, cylinder, smoothstep

# Landmark numbers of the 478-point face mesh; right first, since the mesh lists the subject's right side first.
OUTER_LIPS = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146]
UPPER_LID = {-1: [33, 246, 161, 160, 159, 158, 157, 173, 133], 1: [263, 466, 388, 387, 386, 385, 384, 398, 362]}
LOWER_LID = {-1: [33, 7, 163, 144, 145, 153, 154, 155, 133], 1: [263, 249, 390, 373, 374, 380, 381, 382, 362]}
BROW_TOP = {-1: [70, 63, 105, 66, 107], 1: [300, 293, 334, 296, 336]}
BROW_BOTTOM = {-1: [46, 53, 52, 65, 55], 1: [276, 283, 282, 295, 285]}
NOSE_WING = {-1: 64, 1: 294}
MOUTH_CORNER = {-1: 61, 1: 291}

Blob = tuple[Floats, Floats, float]  # centre (s, y), radii, amount


@dataclass(frozen=True, eq=False)
class Landmarks:
    """points [478,3]: landmark positions on the template, metres. Sides: 1 the subject's left, -1 the right."""

    points: Floats

    def on_cylinder(self, ids: list[int]) -> Floats:
        """[n,2] (s, y) of landmarks."""
        return np.stack(cylinder(self.points[ids]), axis=1)

    def outer_lips(self) -> tuple[Floats, Floats]:
        outline = self.on_cylinder(OUTER_LIPS)
        return outline[:, 0], outline[:, 1]

    def brow(self, side: int) -> tuple[Floats, Floats]:
        """Outline of an eyebrow, slimmer than the landmarks' band."""
        top, bottom = self.on_cylinder(BROW_TOP[side]), self.on_cylinder(BROW_BOTTOM[side])
        outline = np.concatenate([0.75 * top + 0.25 * bottom, (0.25 * top + 0.75 * bottom)[::-1]])
        return outline[:, 0], outline[:, 1]

    def eye_corner(self, side: int) -> Floats:
        return self.on_cylinder([UPPER_LID[side][0]])[0]

    def mouth_corner(self, side: int) -> Floats:
        return self.on_cylinder([MOUTH_CORNER[side]])[0]

    def lower_lid(self, side: int) -> Floats:
        return self.on_cylinder(LOWER_LID[side])

    def smile_fold(self, side: int) -> Floats:
        """The nasolabial fold from beside the nose wing past the corner of the mouth, [9,2]."""
        wing = self.on_cylinder([NOSE_WING[side]])[0] + np.array([side * 0.004, 0.005])
        corner = self.mouth_corner(side) + np.array([side * 0.0105, 0.006])
        end = self.mouth_corner(side) + np.array([side * 0.0105, -0.012])
        u = np.linspace(0, 1, 9)[:, None]
        return (1 - u) ** 2 * wing + 2 * u * (1 - u) * corner + u**2 * end

    def blush(self) -> list[Blob]:
        """Where more blood shows: cheeks, nose, chin, inner eye corners."""
        blobs = [(np.array([0.0, -0.019]), np.array([0.016, 0.014]), 0.12),
                 (np.array([0.0, -0.088]), np.array([0.018, 0.012]), 0.06)]
        for side in (-1, 1):
            blobs += [(np.array([side * 0.050, -0.020]), np.array([0.026, 0.021]), 0.17),
                      (np.array([side * 0.016, -0.026]), np.array([0.006, 0.007]), 0.10),
                      (np.array([side * 0.017, 0.012]), np.array([0.007, 0.006]), 0.08)]
        return blobs

    def shade(self) -> list[Blob]:
        """Where the skin is darker: under the eyes and on the lids."""
        blobs = []
        for side in (-1, 1):
            lid = self.lower_lid(side).mean(axis=0)
            blobs += [(lid + np.array([0, -0.005]), np.array([0.018, 0.006]), 0.08),
                      (lid + np.array([0, 0.012]), np.array([0.018, 0.007]), 0.12)]
        return blobs

    def beauty_spots(self) -> Floats:
        return np.array([[0.041, -0.043], [-0.056, -0.004], [0.018, -0.083]])

    def beard(self, grid: Grid) -> Image:
        """Density of the beard, 0 .. 1: jaw, chin, upper lip; not on the lips."""
        s, y = grid.coordinates()
        reach = np.abs(s)
        jaw = smoothstep(-0.030, -0.062, y + 0.10 * np.maximum(reach - 0.06, 0)) * smoothstep(0.030, 0.055, reach)
        chin = smoothstep(-0.066, -0.080, y) * smoothstep(0.055, 0.045, reach)
        moustache = smoothstep(-0.033, -0.040, y) * smoothstep(0.036, 0.026, reach)
        density = np.maximum(np.maximum(jaw, chin), 0.8 * moustache)
        limits = smoothstep(-0.122, -0.105, y) * smoothstep(0.118, 0.100, reach)
        return (density * limits).astype(np.float32)

    def t_zone(self, grid: Grid) -> Image:
        """Where the skin shines: forehead, nose, chin."""
        s, y = grid.coordinates()
        forehead = smoothstep(0.055, 0.025, np.abs(s)) * smoothstep(0.030, 0.042, y)
        nose = smoothstep(0.020, 0.010, np.abs(s)) * smoothstep(-0.034, -0.026, y) * smoothstep(0.040, 0.030, y)
        chin = np.exp(-((s / 0.014) ** 2) - ((y + 0.088) / 0.010) ** 2)
        return np.maximum(np.maximum(forehead, nose), chin).astype(np.float32)
