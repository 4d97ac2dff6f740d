"""The subject's skin: colour, pores, freckles, moles, hairline, and wrinkles that belong to expressions."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.demo.atlas import (
    FRONT,
    SKIN,
    Floats,
    Grid,
    Image,
    distance_to_curve,
    noise,
    paint_polygon,
    slopes,
    smoothstep,
)
from data.demo.landmarks import Landmarks

BASE = np.array([0.70, 0.425, 0.315], np.float32)      # linear RGB of the skin without blotches
MELANIN = np.array([0.35, 0.75, 1.15], np.float32)     # how strongly pigment absorbs R, G, B
HAEMOGLOBIN = np.array([0.12, 1.0, 0.80], np.float32)  # how strongly blood absorbs R, G, B
LIP = np.array([0.42, 0.135, 0.125], np.float32)
SCALP = np.array([0.026, 0.014, 0.008], np.float32)    # scalp between the hairs, mostly hair itself

# Hairline: height (metres) over the angle from the front (degrees): forehead, temple, sideburn, ear, nape.
HAIRLINE_ANGLE = np.array([0, 18, 34, 46, 55, 62, 68, 80, 86, 96, 112, 124, 138, 160, 180], np.float32)
HAIRLINE_HEIGHT = np.array(
    [.079, .081, .076, .060, .042, .022, -.012, -.014, .022, .034, .020, -.02, -.058, -.075, -.078], np.float32
)


@dataclass(frozen=True, eq=False)
class Skin:
    """Painted maps. albedo [H,W,3] linear RGB; detail [H,W,3]: slopes of the fine relief along s and y, strength
    of the gloss (both on SKIN). wrinkles [W,h,w,3] on FRONT: slope and crease darkness of each wrinkle at full
    strength; drivers: for each wrinkle, the expressions that raise it and how much.
    """

    albedo: Image
    detail: Image
    wrinkles: Image
    drivers: tuple[dict[str, float], ...]


def make_skin(marks: Landmarks, rng: np.random.Generator) -> Skin:
    """Paint the skin of one subject; the same random state paints the same skin."""
    melanin, blood = _pigments(marks, rng)
    albedo = BASE * np.exp(-melanin[..., None] * MELANIN - blood[..., None] * HAEMOGLOBIN)
    lips = paint_polygon(SKIN, *marks.outer_lips(), 0.0006)
    lip_tone = LIP * (1 + 0.10 * noise(SKIN, 0.0008, rng) + 0.06 * noise(SKIN, 0.004, rng))[..., None]
    albedo += (lip_tone - albedo) * (0.85 * lips[..., None])
    hair = hair_mask(SKIN, rng)
    for side in (-1, 1):
        hair = np.maximum(hair, 0.55 * paint_polygon(SKIN, *marks.brow(side), 0.0014))
    strands = SCALP * np.exp(0.5 * noise(SKIN, 0.0006, rng) + 0.3 * noise(SKIN, 0.003, rng))[..., None]
    albedo += (strands - albedo) * (0.93 * hair[..., None])
    relief, oil = _relief(marks, lips, rng)
    wrinkles, drivers = make_wrinkles(marks, rng)
    return Skin(np.clip(albedo, 0.004, 1).astype(np.float32), np.dstack([slopes(relief, SKIN), oil]), wrinkles, drivers)


def hair_mask(grid: Grid, rng: np.random.Generator) -> Image:
    """1 where hair grows, 0 on bare skin, with an uneven, soft hairline."""
    s, y = grid.coordinates()
    angle = np.abs(np.degrees(s / (grid.half_width / np.pi)))
    line = np.interp(angle, HAIRLINE_ANGLE, HAIRLINE_HEIGHT)
    wobble = 0.0022 * noise(grid, 0.005, rng) + 0.0020 * noise(grid, 0.0008, rng)
    return smoothstep(-0.005, 0.011, y + wobble - line).astype(np.float32)


def _pigments(marks: Landmarks, rng: np.random.Generator) -> tuple[Image, Image]:
    """Melanin and blood densities [H,W] that darken the base colour."""
    melanin = 0.015 * noise(SKIN, 0.020, rng) + 0.015 * noise(SKIN, 0.006, rng) + 0.035 * noise(SKIN, 0.0011, rng)
    blood = 0.020 * noise(SKIN, 0.014, rng) + 0.02 * noise(SKIN, 0.004, rng) + 0.03 * noise(SKIN, 0.0016, rng)
    for centre, radius, amount in marks.blush():
        blood += amount * _blob(SKIN, centre, radius)
    for centre, radius, amount in marks.shade():
        melanin += amount * _blob(SKIN, centre, radius)
    melanin += 0.04 * marks.beard(SKIN) * (1 + 0.25 * noise(SKIN, 0.0009, rng))
    _add_spots(melanin, marks, rng)
    return np.maximum(melanin, -0.1), np.maximum(blood, -0.12)


def _blob(grid: Grid, centre: Floats, radius: Floats) -> Image:
    s, y = grid.coordinates()
    return np.exp(-(((s - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2)).astype(np.float32)


def _add_spots(melanin: Image, marks: Landmarks, rng: np.random.Generator) -> None:
    """Freckles over nose, cheeks and forehead, and a dozen moles."""
    freckles = np.stack([rng.normal(0, 0.032, 520), rng.normal(-0.004, 0.022, 520)], axis=1)
    sizes = rng.uniform(0.0003, 0.0009, 520)
    moles = np.stack([rng.uniform(-0.09, 0.09, 14), rng.uniform(-0.105, 0.065, 14)], axis=1)
    centres = np.concatenate([freckles, moles, marks.beauty_spots()])
    radii = np.concatenate([sizes, rng.uniform(0.0007, 0.0013, 14), np.full(len(marks.beauty_spots()), 0.0014)])
    depth = np.concatenate([rng.uniform(0.08, 0.3, 520), rng.uniform(0.3, 0.8, 14), [1.6] * len(marks.beauty_spots())])
    for centre, radius, amount in zip(centres, radii, depth, strict=True):
        _stamp(melanin, centre, radius, amount)


def _stamp(field: Image, centre: Floats, radius: float, amount: float) -> None:
    """Add a soft disc to a small window of `field`."""
    column, row = (float(value) for value in SKIN.pixel(centre[0], centre[1]))
    reach = int(np.ceil(2.5 * radius * SKIN.density)) + 1
    top, left = max(int(row) - reach, 0), max(int(column) - reach, 0)
    window = field[top:int(row) + reach, left:int(column) + reach]
    rows, columns = np.ogrid[top:top + window.shape[0], left:left + window.shape[1]]
    distance = np.hypot(rows - row, columns - column) / (radius * SKIN.density)
    window += (amount * np.exp(-distance**4)).astype(np.float32)


def _relief(marks: Landmarks, lips: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Height of pores and skin texture (metres) and gloss strength."""
    pores = noise(SKIN, 0.0007, rng)
    pores = -np.maximum(pores - 0.6, 0) * 6e-5
    texture = noise(SKIN, 0.0018, rng) * 3.2e-5 + noise(SKIN, 0.0045, rng) * 5e-5
    s, _ = SKIN.coordinates()
    creases = np.sin(s / 0.0011 + 1.5 * noise(SKIN, 0.004, rng)) * 9e-5
    relief = (pores + texture) * (1 - lips) + creases * lips
    oil = 0.35 + 0.55 * marks.t_zone(SKIN) + 0.5 * lips
    oil *= np.clip(1 + 0.3 * noise(SKIN, 0.0009, rng), 0.2, 2)
    return relief.astype(np.float32), oil.astype(np.float32)


def make_wrinkles(marks: Landmarks, rng: np.random.Generator) -> tuple[Image, tuple[dict[str, float], ...]]:
    """Every wrinkle's slope and crease [W,h,w,3] at full strength, and the expressions that drive it."""
    painters = [(_forehead(rng), {"browInnerUp": 1.0, "browOuterUpLeft": 0.35, "browOuterUpRight": 0.35})]
    for side, name in ((1, "Left"), (-1, "Right")):
        painters += [
            (_glabella(side), {f"browDown{name}": 1.0, f"noseSneer{name}": 0.4}),
            (_crows_feet(marks, side, rng), {f"eyeSquint{name}": 1.0, f"mouthSmile{name}": 0.8,
                                             f"cheekSquint{name}": 0.8, f"eyeBlink{name}": 0.25}),
            (_nasolabial(marks, side), {f"mouthSmile{name}": 1.0, f"noseSneer{name}": 0.6, f"cheekSquint{name}": 0.4,
                                        f"mouthUpperUp{name}": 0.5, f"mouthStretch{name}": 0.4}),
            (_bunny_lines(side, rng), {f"noseSneer{name}": 1.0, f"browDown{name}": 0.3}),
            (_under_eye(marks, side), {f"cheekSquint{name}": 1.0, f"eyeSquint{name}": 0.8, f"mouthSmile{name}": 0.6}),
            (_marionette(marks, side), {f"mouthFrown{name}": 1.0, f"mouthStretch{name}": 0.5}),
        ]
    painters += [
        (_chin(rng), {"mouthShrugLower": 1.0, "mouthPucker": 0.5, "mouthFrownLeft": 0.4, "mouthFrownRight": 0.4}),
        (_lip_creases(marks), {"mouthPucker": 1.0, "mouthFunnel": 0.4}),
    ]
    heights = [np.asarray(cv2.GaussianBlur(h.astype(np.float32), (0, 0), 0.8), np.float32) for h, _ in painters]
    # A crease shows as a dark, reddish line where the relief is lowest; 0.8 mm deep is fully dark.
    maps = [np.dstack([slopes(h, FRONT), np.clip(-h / 8e-4, 0, 1)]) for h in heights]
    return np.stack(maps).astype(np.float32), tuple(drivers for _, drivers in painters)


def _groove(distance: Floats, width: float, depth: float) -> Floats:
    """A valley with raised lips, as folded skin has: second derivative of a Gaussian."""
    x = (distance / width) ** 2
    return -depth * (1 - 0.9 * x) * np.exp(-0.5 * x)


def _forehead(rng: np.random.Generator) -> Floats:
    s, y = FRONT.coordinates()
    wobble = 0.0016 * noise(FRONT, 0.018, rng)
    height = np.zeros((FRONT.height, FRONT.width), np.float32)
    for level, depth, tilt in ((0.044, 5e-4, 1.0), (0.0525, 6.5e-4, 0.9), (0.061, 5e-4, 0.7), (0.068, 3e-4, 0.4)):
        middle = level + 0.004 * tilt * np.cos(s / 0.016) + wobble
        fade = smoothstep(0.058, 0.030, np.abs(s)) * (0.75 + 0.25 * np.sin(s / 0.007 + 40 * level))
        height += _groove(y - middle, 0.0015, depth) * fade
    return height * smoothstep(0.036, 0.042, y)


def _glabella(side: int) -> Floats:
    s, y = FRONT.coordinates()
    line = side * (0.0085 + 0.12 * (y - 0.026))
    fade = smoothstep(0.012, 0.020, y) * smoothstep(0.046, 0.034, y)
    return _groove(s - line, 0.0016, 7e-4) * fade


def _crows_feet(marks: Landmarks, side: int, rng: np.random.Generator) -> Floats:
    corner = marks.eye_corner(side)
    height = np.zeros((FRONT.height, FRONT.width), np.float32)
    for degrees, length in ((-34, 0.017), (-16, 0.022), (2, 0.024), (19, 0.020), (34, 0.014)):
        angle = np.radians(degrees + rng.uniform(-4, 4))
        start = corner + np.array([side * 0.0055 * np.cos(angle), 0.0055 * np.sin(angle)])
        end = start + length * np.array([side * np.cos(angle), np.sin(angle)]) + np.array([0, -0.002])
        middle = (start + end) / 2 + np.array([0, 0.0012])
        points = np.stack([start, middle, end])
        distance, place = distance_to_curve(FRONT, points[:, 0], points[:, 1])
        height += _groove(distance, 0.0010, 4.5e-4) * smoothstep(0, 0.15, place) * smoothstep(1.0, 0.6, place)
    return height


def _nasolabial(marks: Landmarks, side: int) -> Floats:
    points = marks.smile_fold(side)
    distance, place = distance_to_curve(FRONT, points[:, 0], points[:, 1])
    outward = distance * -side
    fade = smoothstep(0, 0.30, place) * smoothstep(1.0, 0.65, place)
    bulge = 6e-4 * np.exp(-(((outward - 0.006) / 0.004) ** 2))
    return (_groove(distance, 0.0023, 9e-4) + bulge) * fade


def _bunny_lines(side: int, rng: np.random.Generator) -> Floats:
    s, y = FRONT.coordinates()
    height = np.zeros((FRONT.height, FRONT.width), np.float32)
    for level in (0.004, 0.009, 0.0135):
        line = level - 0.55 * (side * s - 0.010) + rng.uniform(-4e-4, 4e-4)
        height += _groove(y - line, 0.0011, 4e-4)
    return height * smoothstep(0.003, 0.008, side * s) * smoothstep(0.024, 0.016, side * s)


def _under_eye(marks: Landmarks, side: int) -> Floats:
    curve = marks.lower_lid(side)
    height = np.zeros((FRONT.height, FRONT.width), np.float32)
    for drop, depth in ((0.005, 4e-4), (0.0095, 5.5e-4)):
        distance, place = distance_to_curve(FRONT, curve[:, 0], curve[:, 1] - drop)
        height += _groove(distance, 0.0013, depth) * smoothstep(0, 0.25, place) * smoothstep(1, 0.75, place)
    return height


def _marionette(marks: Landmarks, side: int) -> Floats:
    corner = marks.mouth_corner(side)
    points = corner + np.array([[side * 0.002, 0.001], [side * 0.006, -0.008], [side * 0.007, -0.020]])
    distance, place = distance_to_curve(FRONT, points[:, 0], points[:, 1])
    return _groove(distance, 0.0015, 7e-4) * smoothstep(0, 0.1, place) * smoothstep(1, 0.6, place)


def _chin(rng: np.random.Generator) -> Floats:
    return 4e-4 * noise(FRONT, 0.0032, rng) * _blob(FRONT, np.array([0, -0.088]), np.array([0.016, 0.010]))


def _lip_creases(marks: Landmarks) -> Floats:
    s, _ = FRONT.coordinates()
    lips = paint_polygon(FRONT, *marks.outer_lips(), 0.003)
    return 2.5e-4 * np.sin(s / 0.00062) * lips
