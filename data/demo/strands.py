"""Hair: curves thinner than a mesh can hold. Grown once; the head's hair is still, the face's moves with the skin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from data.demo.atlas import SKIN, Floats, cylinder, paint_polygon
from data.demo.landmarks import LOWER_LID, UPPER_LID, Landmarks
from data.demo.skin import hair_mask

Ints = NDArray[np.int64]
Group = tuple[Ints, Floats, Floats, Floats]  # triangle, barycentric, points in head space from the root, radius

HAIR_STRANDS = 5200
HAIR_POINTS = 22
BROW_STRANDS = 900    # a side
LASH_STRANDS = {"upper": 80, "lower": 40}
STUBBLE_STRANDS = 900
SKIN_POINTS = 5       # points of a brow hair, a lash or a stubble hair
PARTING = 0.022       # metres to the subject's left


@dataclass(frozen=True, eq=False)
class FixedStrands:
    """Strands in head space. points [N,P,3] metres, root first; radius [N,P] metres; tone [N]: brightness factor;
    shade [N,P]: share of light that reaches a point through the hair.
    """

    points: Floats
    radius: Floats
    tone: Floats
    shade: Floats


@dataclass(frozen=True, eq=False)
class SkinStrands:
    """Strands that ride on triangles. triangle [N]; barycentric [N,3]: root; local [N,P,3]: points from the root in the
    triangle's frame (edge, binormal, normal), metres; radius [N,P]; tone [N].
    """

    triangle: Ints
    barycentric: Floats
    local: Floats
    radius: Floats
    tone: Floats

    def placed(self, vertices: Floats, faces: Ints) -> Floats:
        """Points [N,P,3] on a posed mesh."""
        corners = vertices[faces[self.triangle]]
        root = np.einsum("nc,ncx->nx", self.barycentric, corners)
        return root[:, None] + self.local @ triangle_axes(corners)


def triangle_axes(corners: Floats) -> Floats:
    """Orthonormal rows [N,3,3] of triangles [N,3,3]: first edge, binormal, normal."""
    edge = corners[:, 1] - corners[:, 0]
    edge = edge / np.maximum(np.linalg.norm(edge, axis=1, keepdims=True), 1e-12)
    normal = np.cross(edge, corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return np.stack([edge, np.cross(normal, edge), normal], axis=1)


def _sample(vertices: Floats, faces: Ints, count: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """`count` random surface points by area: indices into `faces`, barycentric coordinates."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(faces), count, p=area / area.sum())
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    return chosen, np.stack([1 - u, u * (1 - v), u * v], axis=1)


def grow_hair(
    template: Floats, neutral: Floats, normals: Floats, faces: Ints, part: Ints, ears: Floats, rng: np.random.Generator
) -> FixedStrands:
    """Hair swept from a parting to the sides and back, ending about the ears and the nape."""
    scalp = np.flatnonzero((part[faces] == 0).all(axis=1) & (ears[faces].max(axis=1) == 0)
                           & (template[faces, 1].mean(axis=1) > -0.085))
    triangle, barycentric = _sample(template, faces[scalp], 6 * HAIR_STRANDS, rng)
    corners = faces[scalp][triangle]
    place = np.einsum("nc,ncx->nx", barycentric, template[corners])
    growth = SKIN.sample(hair_mask(SKIN, rng)[..., None], *cylinder(place))[:, 0]
    rooted = np.flatnonzero(growth > rng.uniform(0.1, 1, len(growth)))[:HAIR_STRANDS]
    corners, barycentric = corners[rooted], barycentric[rooted]
    roots = np.einsum("nc,ncx->nx", barycentric, neutral[corners])
    outward = np.einsum("nc,ncx->nx", barycentric, normals[corners])
    points = _comb(roots, outward, neutral[part == 0], normals[part == 0], rng)
    taper = np.linspace(0, 1, HAIR_POINTS)
    radius = rng.uniform(0.9e-4, 1.9e-4, (len(points), 1)) * (1 - 0.75 * taper**2)
    return FixedStrands(points, radius, np.exp(rng.normal(0, 0.35, len(points))), _light_through(points))


def _comb(roots: Floats, outward: Floats, skull: Floats, skull_normals: Floats, rng: np.random.Generator) -> Floats:
    """Grow strands step by step along the combing direction, kept outside the head."""
    count = len(roots)
    tree = cKDTree(skull)
    side = np.where(roots[:, 0] + rng.normal(0, 0.003, count) > PARTING, 1.0, -1.0)
    length = rng.uniform(0.060, 0.105, count) * np.interp(roots[:, 1], [-0.08, -0.03, 0.05], [0.35, 0.6, 1.0])
    stray = rng.random(count) < 0.05
    lift = np.where(stray, rng.uniform(0.010, 0.026, count), rng.uniform(0.002, 0.013, count))
    phase, wave = rng.uniform(0, 2 * np.pi, (2, count)), rng.uniform(0.5, 1.2, count)
    clump = 0.3 * np.sin(roots @ rng.normal(0, 260, (3, 3)))  # neighbours lean the same way
    jitter = rng.normal(0, 0.10, (count, 3)) * np.where(stray, 3.0, 1.0)[:, None]
    points, direction = [roots], outward
    for step in range(1, HAIR_POINTS):
        here, along = points[-1], step / (HAIR_POINTS - 1)
        comb = _combing(here, side) + clump + jitter
        turns = 9 * along + phase[0], 7 * along + phase[1], 8 * along + phase[1]
        curl = 0.36 * np.stack([np.sin(turns[0]), 0.4 * np.sin(turns[1]), np.cos(turns[2])], axis=1) * wave[:, None]
        direction = 0.45 * direction + 0.55 * (comb + curl) + 0.30 * max(0.0, 0.45 - along) * outward
        direction[:, 1] -= 0.28 * along  # its weight pulls a hair down more towards the tip
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        there = here + direction * (length / (HAIR_POINTS - 1))[:, None]
        _, nearest = tree.query(there)
        height = np.einsum("nx,nx->n", there - skull[nearest], skull_normals[nearest])
        wanted = lift * np.minimum(1, 3.5 * along)
        miss = wanted - height  # lifted out of the head at once, drawn back to it slowly
        there += skull_normals[nearest] * (miss * np.where(miss > 0, 1.0, 0.3))[:, None]
        points.append(there)
    return np.stack(points, axis=1)


def _combing(points: Floats, side: Floats) -> Floats:
    """Unit direction of the comb: from the parting over to the side, backwards, then down."""
    high = np.clip((points[:, 1] - 0.03) / 0.08, 0, 1)
    front = np.clip((points[:, 2] + 0.01) / 0.06, 0, 1)
    across = side * (0.10 + 1.0 * high)
    comb = np.stack([across, -0.95 + 0.75 * high + 0.15 * high * front, -0.55 - 0.25 * front * high], axis=1)
    return comb / np.linalg.norm(comb, axis=1, keepdims=True)


def _light_through(points: Floats) -> Floats:
    """Share of light at each point [N,P]: hair nearer to the lights hides what lies below it."""
    flat = points.reshape(-1, 3)
    light = np.zeros(len(flat))
    for direction, weight in (((0.60, 0.52, 0.61), 0.5), ((-0.5, 0.3, 0.8), 0.2), ((0, 1, 0.1), 0.3)):
        axis = np.array(direction) / np.linalg.norm(direction)
        right = np.cross([0.0, 0.2, 1.0], axis)
        right /= np.linalg.norm(right)
        cell = np.floor(np.stack([flat @ right, flat @ np.cross(axis, right)], axis=1) / 0.0025).astype(np.int64)
        code = (cell[:, 0] + 4096) * 8192 + cell[:, 1] + 4096
        order = np.lexsort((-(flat @ axis), code))
        start = np.flatnonzero(np.diff(code[order], prepend=-1))
        rank = np.arange(len(flat)) - np.repeat(start, np.diff([*start, len(flat)]))
        light[order] += weight * np.exp(-0.13 * rank)
    return light.reshape(points.shape[:2])


def grow_skin_hair(
    template: Floats, neutral: Floats, faces: Ints, part: Ints, marks: Landmarks, rng: np.random.Generator
) -> SkinStrands:
    """Eyebrows, lashes and stubble."""
    skin = np.flatnonzero((part[faces] == 0).all(axis=1))
    centres = template[faces[skin]].mean(axis=1)
    normals = triangle_axes(template[faces[skin]])[:, 2]
    facing = skin[(centres[:, 2] > -0.02) & (normals[:, 2] > -0.4)]
    groups = [_brow(template, faces, facing, marks, side, rng) for side in (-1, 1)]
    groups += [_lashes(template, faces, facing, marks, side, rng) for side in (-1, 1)]
    groups.append(_stubble(template, faces, facing, marks, rng))
    triangle, barycentric, shape, radius = (np.concatenate(values) for values in zip(*groups, strict=True))
    axes = triangle_axes(neutral[faces[triangle]])
    local = np.einsum("npx,nax->npa", shape, axes)
    return SkinStrands(triangle, barycentric, local, radius, np.exp(rng.normal(0, 0.2, len(triangle))))


def _roots_on_map(
    template: Floats, faces: Ints, allowed: Ints, density: Floats, count: int, rng: np.random.Generator
) -> tuple[Ints, Floats, Floats]:
    """Random roots where the painted `density` [H,W] says: triangle, barycentric, template position."""
    chosen, barycentric = _sample(template, faces[allowed], 40 * count, rng)
    triangle = allowed[chosen]
    place = np.einsum("nc,ncx->nx", barycentric, template[faces[triangle]])
    weight = SKIN.sample(np.asarray(density, np.float32)[..., None], *cylinder(place))[:, 0]
    kept = np.flatnonzero(weight > rng.uniform(0.05, 1, len(weight)))[:count]
    return triangle[kept], barycentric[kept], place[kept]


def _curve(direction: Floats, bend: Floats, length: Floats) -> Floats:
    """Points [N,P,3] of hairs that start along `direction` and turn towards `bend`."""
    u = np.linspace(0, 1, SKIN_POINTS)[None, :, None]
    return length[:, None, None] * (u * direction[:, None] + 0.5 * u**2 * bend[:, None])


def _brow(
    template: Floats, faces: Ints, allowed: Ints, marks: Landmarks, side: int, rng: np.random.Generator
) -> Group:
    density = paint_polygon(SKIN, *marks.brow(side), 0.0012)
    triangle, barycentric, place = _roots_on_map(template, faces, allowed, density, BROW_STRANDS, rng)
    count = len(triangle)
    inner = np.clip((0.030 - np.abs(place[:, 0])) / 0.018, 0, 1)[:, None]  # hairs stand up near the nose
    outward = np.array([side * 1.0, 0.25, -0.25]) * (1 - 0.6 * inner) + np.array([0, 0.9, 0]) * inner
    direction = outward + np.array([0, 0, 0.42]) + rng.normal(0, 0.16, (count, 3))
    bend = np.array([side * 0.35, -0.35, -0.45]) + rng.normal(0, 0.1, (count, 3))
    shape = _curve(direction, bend, rng.uniform(0.005, 0.0095, count))
    radius = rng.uniform(0.9e-4, 1.5e-4, (count, 1)) * np.linspace(1, 0.3, SKIN_POINTS)
    return triangle, barycentric, shape, radius


def _lashes(
    template: Floats, faces: Ints, allowed: Ints, marks: Landmarks, side: int, rng: np.random.Generator
) -> Group:
    groups = []
    for lid, sign in (("upper", 1.0), ("lower", -1.0)):
        ids = (UPPER_LID if lid == "upper" else LOWER_LID)[side][:-1]
        curve = marks.points[ids]
        count = LASH_STRANDS[lid]
        at = np.sort(rng.uniform(0, len(ids) - 1, count))
        roots = np.stack([np.interp(at, np.arange(len(ids)), curve[:, i]) for i in range(3)], axis=1)
        triangle, barycentric = _nearest_on(roots, template, faces, allowed)
        fan = (roots - curve.mean(axis=0)) * 22
        direction = fan * np.array([1, 0.3, 0]) + np.array([0, 0.25 * sign, 0.95]) + rng.normal(0, 0.10, (count, 3))
        bend = np.tile([0, 1.5 * sign, -0.2], (count, 1))
        length = rng.uniform(0.0042, 0.0066, count) if lid == "upper" else rng.uniform(0.0022, 0.0036, count)
        radius = np.full((count, 1), 0.9e-4 if lid == "upper" else 0.6e-4) * np.linspace(1, 0.3, SKIN_POINTS)
        groups.append((triangle, barycentric, _curve(direction, bend, length), radius))
    triangle, barycentric, shape, radius = (np.concatenate(values) for values in zip(*groups, strict=True))
    return triangle, barycentric, shape, radius


def _nearest_on(roots: Floats, template: Floats, faces: Ints, allowed: Ints) -> tuple[Ints, Floats]:
    """The allowed triangle whose centre is nearest, and the root's (clamped) barycentric coordinates in it."""
    _, index = cKDTree(template[faces[allowed]].mean(axis=1)).query(roots)
    triangle = allowed[index]
    corners = template[faces[triangle]]
    system = np.concatenate([corners.transpose(0, 2, 1) * 1e3, np.full((len(roots), 1, 3), 10.0)], axis=1)
    target = np.concatenate([roots * 1e3, np.full((len(roots), 1), 10.0)], axis=1)
    weights = np.stack([np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(system, target, strict=True)])
    weights = np.clip(weights, 0, 1)
    return triangle, weights / weights.sum(axis=1, keepdims=True)


def _stubble(
    template: Floats, faces: Ints, allowed: Ints, marks: Landmarks, rng: np.random.Generator
) -> Group:
    density = marks.beard(SKIN) ** 2
    triangle, barycentric, _ = _roots_on_map(template, faces, allowed, density, STUBBLE_STRANDS, rng)
    count = len(triangle)
    normal = triangle_axes(template[faces[triangle]])[:, 2]
    direction = 0.7 * normal + np.array([0, -0.6, 0.1]) + rng.normal(0, 0.3, (count, 3))
    shape = _curve(direction, np.zeros((count, 3)), rng.uniform(0.0008, 0.0019, count))
    return triangle, barycentric, shape, np.full((count, SKIN_POINTS), 0.5e-4)
