"""Light on skin, eyes, teeth and the inside of the mouth: colours of surface samples of one posed frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.demo.atlas import FRONT, RADIUS, SKIN, Floats, Image, cylinder, smoothstep
from data.demo.skin import HAEMOGLOBIN, MELANIN
from data.demo.subject import KEY_LIGHT, MOUTH_BAG, UPPER_TEETH, Subject, triangle_areas
from data.demo.subject import SKIN as SKIN_PART

KEY = np.array([1.95, 1.80, 1.62], np.float32)      # radiance of the key light, which turns with the head
ROOM = np.array([0.62, 0.70, 0.85], np.float32)     # of the window, which stays in the room
SKY, GROUND = np.array([0.44, 0.46, 0.50], np.float32), np.array([0.24, 0.19, 0.16], np.float32)
FILL = np.array([0.22, 0.25, 0.30], np.float32)
FILL_LIGHT = np.array([-0.74, 0.08, 0.67])
ROOM_LIGHT = np.array([-0.58, 0.34, 0.74])          # towards the window, in the room
SKIN_WRAP = np.array([0.42, 0.20, 0.12], np.float32)  # light creeps round edges under the skin, red furthest
EAR = np.array([0.62, 0.30, 0.225], np.float32)
BAG = np.array([0.115, 0.022, 0.020], np.float32)
TONGUE_COLOUR = np.array([0.46, 0.155, 0.145], np.float32)
TOOTH = np.array([0.74, 0.68, 0.56], np.float32)
GUM = np.array([0.44, 0.145, 0.14], np.float32)

# Blood that an expression drives into the skin it moves (negative: presses out of it), at coefficient 1.
FLUSH = {
    "mouthSmile": 0.26, "noseSneer": 0.38, "browDown": 0.32, "browInnerUp": -0.28, "mouthPress": -0.38,
    "mouthStretch": -0.30, "mouthPucker": 0.24, "cheekPuff": 0.38, "eyeSquint": 0.20, "mouthFrown": 0.24,
}
STRAIN_PALING = 0.30  # blood lost where the skin is stretched to e times its area; gained where compressed

# Widths of teeth from the middle outwards (metres, adult averages), and of gaps between crowns.
UPPER_WIDTHS = np.array([8.6, 6.6, 7.6, 7.1, 6.8, 10.2, 9.6, 8.5]) * 1e-3
LOWER_WIDTHS = np.array([5.3, 5.9, 6.8, 7.0, 7.1, 11.2, 10.7, 10.0]) * 1e-3


@dataclass(frozen=True, eq=False)
class Scene:
    """One posed frame in head space. vertices, normals [V,3]; expression [E]; eye [3]: the camera; window [3]:
    direction of the room's light.
    """

    vertices: Floats
    normals: Floats
    expression: Floats
    eye: Floats
    window: Floats


@dataclass(frozen=True, eq=False)
class Samples:
    """M visible surface points. triangle [M]; barycentric [M,3]; position, normal (unit), template, view (unit, to the
    camera) [M,3]; sky, key [M]: visibility of the lights; blood, ear, bag [M]; inside [M]: 0 at the rim of the mouth or
    lid opening, 1 well inside (None outside those parts it is 1).
    """

    triangle: NDArray[np.int64]
    barycentric: Image
    position: Image
    normal: Image
    template: Image
    view: Image
    sky: Image
    key: Image
    blood: Image
    ear: Image
    bag: Image
    inside: Image

    def __getitem__(self, chosen: NDArray[np.bool_]) -> Samples:
        return Samples(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def vertex_table(subject: Subject, scene: Scene) -> Image:
    """Per-vertex values [V,14] that samples interpolate: position, normal, template, sky, key, blood, ear, bag."""
    jaw = scene.expression[subject.expression_names.index("jawOpen")]
    seen = subject.visibility[0] + min(jaw / 0.9, 1.0) * (subject.visibility[1] - subject.visibility[0])
    # How much of eyes, teeth, tongue and lining the lids and lips uncover is seen in the picture (`inside`), not baked.
    seen = np.where((subject.part != SKIN_PART)[:, None], 0.65, seen)
    seen = np.where((subject.part >= UPPER_TEETH)[:, None], 0.85, seen)
    columns = [scene.vertices, scene.normals, subject.template, seen, _blood(subject, scene)[:, None],
               subject.ears[:, None], (subject.part == MOUTH_BAG)[:, None]]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _blood(subject: Subject, scene: Scene) -> Floats:
    """[V]: change of blood in the skin by expression and by strain."""
    amount = np.zeros(len(subject.expression_names))
    for name, value in FLUSH.items():
        for k, full in enumerate(subject.expression_names):
            if full in (name, name + "Left", name + "Right"):
                amount[k] = value * scene.expression[k]
    strain = np.log(triangle_areas(scene.vertices, subject.faces) / np.maximum(subject.strain_rest, 1e-12) + 1e-6)
    per_vertex = subject.normal_sum @ np.clip(strain, -0.5, 0.5) / np.maximum(subject.normal_sum.sum(axis=1).A1, 1)
    # Paler than this looks green, since BASE already lacks blood.
    return np.maximum(amount @ subject.moved - STRAIN_PALING * per_vertex, -0.18)


def lit(
    samples: Samples, normal: Image, albedo: Image, wrap: Image, gloss: Image, power: float, window: Floats
) -> Image:
    """Linear RGB [M,3] of matt `albedo` with a gloss of strength `gloss` [M] and exponent `power`."""
    key_direction = KEY_LIGHT / np.linalg.norm(KEY_LIGHT)
    sky = samples.sky[:, None]
    up = normal[:, 1:2] * 0.5 + 0.5
    # Light that reaches a crevice has bounced off skin: it is redder.
    total = (GROUND + (SKY - GROUND) * up) * sky ** np.array([0.75, 1.0, 1.1], np.float32)
    shine = np.zeros(len(normal), np.float32)
    lights = ((key_direction, KEY, samples.key), (FILL_LIGHT, FILL, samples.sky), (window, ROOM, samples.sky))
    for direction, radiance, seen in lights:
        cosine = (normal @ direction.astype(np.float32))[:, None]
        total = total + radiance * np.clip((cosine + wrap) / (1 + wrap) ** 2, 0, None) * seen[:, None]
        half = samples.view + direction.astype(np.float32)
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        reflected = np.clip((normal * half).sum(axis=1), 0, 1) ** power
        shine += reflected * seen * radiance[1] * (cosine[:, 0] > -0.1)
    facing = np.clip((normal * samples.view).sum(axis=1), 0, 1)
    fresnel = 0.35 + 0.65 * (1 - facing) ** 3
    return albedo * total + (gloss * fresnel * shine)[:, None]


def shade_skin(subject: Subject, scene: Scene, samples: Samples) -> Image:
    """Skin, lips and scalp, with the relief of pores and of the wrinkles that this expression raises."""
    s, y = cylinder(samples.template)
    albedo = SKIN.sample(subject.skin.albedo, s, y)
    albedo += (EAR - albedo) * samples.ear[:, None]
    detail = SKIN.sample(subject.skin.detail, s, y)
    wrinkle = FRONT.sample(_wrinkles(subject, scene), s, y)
    outside = (np.abs(s) > FRONT.half_width - 0.002) | (y < FRONT.low + 0.002) | (y > FRONT.high - 0.002)
    wrinkle[outside] = 0
    crease = np.clip(wrinkle[:, 2:], 0, 1.5)
    blood = samples.blood[:, None] + 0.22 * crease
    albedo = albedo * np.exp(-blood * HAEMOGLOBIN - 0.24 * crease * MELANIN)
    albedo += (BAG - albedo) * samples.bag[:, None]
    slope = (detail[:, :2] + wrinkle[:, :2]) * (1 - samples.ear)[:, None]
    normal = _bumped(samples.normal, s, slope)
    gloss = 0.16 * detail[:, 2] * (1 - 0.8 * crease[:, 0])
    colour = lit(samples, normal, albedo, SKIN_WRAP, gloss, 26.0, scene.window)
    return colour * (samples.inside * (1 - 0.6 * samples.bag))[:, None]


def _wrinkles(subject: Subject, scene: Scene) -> Image:
    """Slope and crease [h,w,3] of all wrinkles at this frame's expression."""
    codes = dict(zip(subject.expression_names, scene.expression, strict=True))
    total = np.zeros(subject.skin.wrinkles.shape[1:], np.float32)
    for drivers, picture in zip(subject.skin.drivers, subject.skin.wrinkles, strict=True):
        amount = min(sum(weight * codes[name] for name, weight in drivers.items()), 1.2)
        if amount > 0.02:
            total += np.float32(amount) * picture
    return total


def _bumped(normal: Image, s: Image, slope: Image) -> Image:
    """Unit normals [M,3] tilted by a relief whose slopes along the cylinder and along y are `slope` [M,2]."""
    angle = s / RADIUS
    tangent = np.stack([np.cos(angle), np.zeros_like(angle), -np.sin(angle)], axis=1)
    tangent -= (tangent * normal).sum(axis=1, keepdims=True) * normal
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-3)
    bumped = normal - slope[:, :1] * tangent - slope[:, 1:] * np.cross(normal, tangent)
    return (bumped / np.linalg.norm(bumped, axis=1, keepdims=True)).astype(np.float32)


def shade_eye(subject: Subject, scene: Scene, samples: Samples, side: int) -> Image:
    """An eyeball: iris, pupil and sclera turn with it, reflections stay with the lights. side: 0 left, 1 right."""
    centre = subject.eye_centres[side]
    rest = np.einsum("mc,mcx->mx", samples.barycentric, subject.neutral[subject.faces[samples.triangle]]) - centre
    rest /= np.linalg.norm(rest, axis=1, keepdims=True)
    off_axis = np.arccos(np.clip(rest[:, 2], -1, 1))[:, None]
    around = np.arctan2(rest[:, 1], rest[:, 0])[:, None]
    normal = (samples.position - centre).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    albedo = _iris_and_sclera(off_axis, around, rest)
    shadow = samples.inside[:, None]
    dull = np.zeros(len(normal), np.float32)  # reflections are drawn sharp, below
    colour = lit(samples, normal, albedo * shadow, np.full(3, 0.25, np.float32), dull, 1.0, scene.window)
    # The iris lies behind a clear dome: light enters from one side and gathers on the other.
    dome = np.clip(0.5 - 0.5 * (normal @ scene.window.astype(np.float32))[:, None], 0, 1)
    colour *= 1 + 0.9 * dome * smoothstep(0.40, 0.30, off_axis)
    return colour + _reflections(samples, normal, scene) * shadow


def _iris_and_sclera(off_axis: Floats, around: Floats, rest: Floats) -> Floats:
    iris, pupil = 0.385, 0.150  # radians: 5.9 mm and 2.3 mm on an eyeball of 15.7 mm
    fibres = 0.5 + 0.22 * np.sin(37 * around + 3 * np.sin(5 * around)) + 0.16 * np.sin(83 * around + 20 * off_axis)
    depth = np.clip((off_axis - pupil) / (iris - pupil), 0, 1)
    inner, outer = np.array([0.20, 0.115, 0.035]), np.array([0.075, 0.120, 0.125])
    colour = (inner + (outer - inner) * smoothstep(0.15, 0.65, depth)) * (0.45 + 1.1 * fibres)
    colour = colour * (1 - 0.85 * smoothstep(0.78, 1.0, depth))
    colour = colour * smoothstep(pupil - 0.015, pupil + 0.020, off_axis) + 0.004
    white = np.array([0.50, 0.47, 0.445]) * (1 - np.array([0.05, 0.30, 0.30]) * smoothstep(0.45, 1.0, off_axis))
    veins = np.clip(np.sin(23 * rest[:, :1] * 9 + 6 * np.sin(90 * rest[:, 1:2])) - 0.86, 0, 1) * 2.2
    white = white - veins * np.array([0.02, 0.16, 0.14]) * smoothstep(0.5, 0.9, off_axis)
    return (colour + (white - colour) * smoothstep(iris - 0.018, iris + 0.018, off_axis)).astype(np.float32)


def _reflections(samples: Samples, normal: Image, scene: Scene) -> Image:
    """Sharp images of the window and of the key light on the wet eye."""
    mirrored = 2 * (normal * samples.view).sum(axis=1, keepdims=True) * normal - samples.view
    key = KEY_LIGHT / np.linalg.norm(KEY_LIGHT)
    glint = 2.6 * smoothstep(0.955, 0.975, mirrored @ key.astype(np.float32))
    glint += 1.1 * smoothstep(0.90, 0.95, mirrored @ scene.window.astype(np.float32))
    return glint[:, None].astype(np.float32)


def shade_teeth(scene: Scene, samples: Samples, part: int) -> Image:
    """A row of teeth drawn on the dental strip: crowns with gaps between them, scalloped gums, dark cut corners."""
    upper = part == UPPER_TEETH
    x, y, z = samples.template.T
    along = _arch_length(np.arctan2(np.abs(x), z - 0.010), upper)
    edges = np.concatenate([[0], np.cumsum(UPPER_WIDTHS if upper else LOWER_WIDTHS)])
    tooth = np.clip(np.searchsorted(edges, along, side="right") - 1, 0, len(edges) - 2)
    across = (along - edges[tooth]) / (edges[tooth + 1] - edges[tooth])  # 0 .. 1 over one tooth
    bow = 4 * across * (1 - across)
    gum_line = -0.0437 + 0.0020 * bow + 0.0011 * (tooth % 2) if upper else -0.0652 - 0.0018 * bow
    tip = -0.0552 if upper else -0.0545
    rise = (y - tip) / (gum_line - tip)  # 0 at the biting edge, 1 at the gum
    gum = smoothstep(0.96, 1.04, rise)[:, None]
    gap = smoothstep(0.0, 0.07, np.minimum(across, 1 - across))[:, None]
    tint = 1 + 0.05 * np.sin(2.7 * tooth + (x > 0))
    crown = TOOTH * tint[:, None] * (1 - np.array([0.02, 0.07, 0.16]) * smoothstep(0.3, 1.0, rise)[:, None])
    albedo = (crown * (0.16 + 0.84 * gap) * (1 - gum) + GUM * gum).astype(np.float32)
    corner = smoothstep(0.0, 0.10 + 0.12 * (1 - bow), rise + 0.02)[:, None]
    turn = np.sign(x) * (across - 0.5) * 0.9 * (1 - gum[:, 0])
    normal = samples.normal + turn[:, None] * np.cross([0.0, 1.0, 0.0], samples.normal)
    normal = (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(np.float32)
    wrap, gloss = np.full(3, 0.3, np.float32), np.full(len(x), 0.35, np.float32)
    colour = lit(samples, normal, albedo, wrap, gloss, 60.0, scene.window)
    return colour * corner.astype(np.float32) * _interior_light(samples)[:, None]


def _arch_length(angle: Floats, upper: bool) -> Floats:
    """Length along the dental arch from its middle, by angle from the front (the strip's own columns)."""
    columns = np.array([[0, 51.5], [9.2, 50.8], [18.3, 45.5], [24, 38.3], [28, 30.5], [31.6, 21.8], [33, 15], [35, 8]])
    if not upper:
        columns = np.array([[0, 49.8], [10.3, 49], [20.8, 44.5], [26, 37.4], [29.5, 29.2], [32.4, 21], [33.4, 14.2],
                            [35.3, 8]])
    columns = columns * 1e-3
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(columns, axis=0), axis=1))])
    return np.interp(angle, np.arctan2(columns[:, 0], columns[:, 1] - 0.010), length)


def shade_inside(scene: Scene, samples: Samples) -> Image:
    """Tongue and lining of the mouth: moist, and darker the further back."""
    lining = samples.bag[:, None]
    spots = 1 + 0.12 * np.sin(samples.template @ np.array([2900.0, 900, 2300])) \
        * np.sin(samples.template @ np.array([-1700.0, 800, 2700]))
    albedo = ((TONGUE_COLOUR + (BAG - TONGUE_COLOUR) * lining) * spots[:, None]).astype(np.float32)
    gloss = np.full(len(albedo), 0.22, np.float32)
    colour = lit(samples, samples.normal, albedo, np.full(3, 0.4, np.float32), gloss, 30.0, scene.window)
    return colour * _interior_light(samples)[:, None]


def _interior_light(samples: Samples) -> Image:
    """[M]: light that enters between the lips; less behind them and further back."""
    depth = smoothstep(0.012, 0.052, samples.position[:, 2])
    return (samples.inside * (0.06 + 0.94 * depth)).astype(np.float32)

