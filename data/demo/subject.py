"""The demo subject: one fixed, invented person on the open head, with everything that does not change by frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from data.demo.atlas import Floats, Image
from data.demo.landmarks import Landmarks
from data.demo.motion import Motion
from data.demo.skin import Skin, make_skin
from data.demo.strands import FixedStrands, SkinStrands, grow_hair, grow_skin_hair
from flame import Head, load_head, pose_head
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from utils.mesh_raster import project, rasterize_mesh

HEAD_FILE = Path(__file__).parents[1] / "open_head" / "open_head.npz"
IDENTITY_STRENGTH = 0.75  # standard deviations of the identity modes: an individual, not a caricature
CASTING = 13  # of the persons that seed 0 could be, the one for the demo, chosen by eye
SKIN, LEFT_EYE, RIGHT_EYE, UPPER_TEETH, LOWER_TEETH, TONGUE, MOUTH_BAG = range(7)
KEY_LIGHT = np.array([0.60, 0.52, 0.61])  # towards the light, in head space: it turns with the head
OCCLUSION_DIRECTIONS = 48
OCCLUSION_SIZE = 160  # pixels of the visibility renders; 2 mm each, as fine as the mesh


@dataclass(frozen=True, eq=False)
class Codes:
    """What the tracker would store, for T frames. shape [S]; expression [T,E]; jaw [T,6]; eyes [T,12]; eyelids [T,2]
    (torch, float32).
    """

    shape: torch.Tensor
    expression: torch.Tensor
    jaw: torch.Tensor
    eyes: torch.Tensor
    eyelids: torch.Tensor


@dataclass(frozen=True, eq=False)
class Subject:
    """Arrays of the subject, picklable for worker processes.

    template, neutral [V,3]: mean head (detail is painted there) and this person at rest. faces [F,3]. part [V]: SKIN
    .. MOUTH_BAG. ears [V]: 1 on the ears. normal_sum: sparse [V,F], triangle normals to vertex normals.
    visibility [2,V,2]: share of the sky and of the key light that reaches a vertex, mouth closed and open.
    moved [E,V]: how far each expression moves a vertex, 1 at its largest. strain_rest [F]: triangle areas at rest.
    eye_centres [2,3] at rest (left, right).
    """

    seed: int
    shape: NDArray[np.float32]
    template: Floats
    neutral: Floats
    faces: NDArray[np.int64]
    part: NDArray[np.int64]
    ears: NDArray[np.float32]
    normal_sum: csr_matrix
    visibility: Image
    moved: Image
    strain_rest: Floats
    eye_centres: Floats
    expression_names: tuple[str, ...]
    skin: Skin
    hair: FixedStrands
    skin_hair: SkinStrands


def make_subject(seed: int) -> Subject:
    """Build the person that `seed` names; takes some seconds."""
    head = load_head("open")
    data = np.load(HEAD_FILE)
    rng = np.random.default_rng((seed, CASTING))
    shape = torch.from_numpy((IDENTITY_STRENGTH * rng.standard_normal(head.n_shape)).astype(np.float32))
    rest = rest_codes(head, shape)
    neutral = posed_vertices(head, rest)[0]
    template = head.v_template.numpy().astype(np.float64)
    faces = head.faces.numpy()
    part = _parts(data, template)
    marks = Landmarks((template[data["mp478_vertices"]] * data["mp478_bary"][..., None]).sum(axis=1))
    normal_sum = _normal_sum(faces, len(template))
    ears = np.zeros(len(template), np.float32)
    ears[data["region_ears"]] = 1
    normals = vertex_normals(neutral, faces, normal_sum)
    opened = posed_vertices(head, rest_codes(head, shape, {"jawOpen": 0.9}))[0]
    visibility = np.stack([_visibility(v, faces, normal_sum) for v in (neutral, opened)])
    moved = head.expression_dirs.norm(dim=1).T.numpy()
    return Subject(
        seed, shape.numpy(), template, neutral, faces, part, ears, normal_sum, visibility.astype(np.float32),
        moved / np.maximum(moved.max(axis=1, keepdims=True), 1e-9),
        triangle_areas(neutral, faces), _eye_centres(head, neutral), head.expression_names,
        make_skin(marks, rng), grow_hair(template, neutral, normals, faces, part, ears, rng),
        grow_skin_hair(template, neutral, faces, part, marks, rng),
    )


def rest_codes(head: Head, shape: torch.Tensor, expression: dict[str, float] | None = None) -> Codes:
    """Codes of one still frame, with some expressions set (the jaw follows them)."""
    codes = torch.zeros(1, head.n_expression)
    for name, value in (expression or {}).items():
        codes[0, head.expression_names.index(name)] = value
    six = matrix_to_6d(matrix_from_axis_angle(codes @ head.expression_jaw))
    identity = torch.tensor([[1.0, 0, 0, 0, 1, 0]])
    return Codes(shape, codes, six, identity.repeat(1, 2), torch.zeros(1, 2))


def motion_codes(head: Head, shape: torch.Tensor, motion: Motion) -> Codes:
    """Tracker codes of a motion. A blink is split: half in the expression codes, half in the eyelid codes."""
    expression = torch.from_numpy(motion.expression.astype(np.float32))
    jaw = matrix_to_6d(matrix_from_axis_angle(expression @ head.expression_jaw))
    yaw, pitch = torch.from_numpy(motion.gaze.astype(np.float32)).T
    zero = torch.zeros_like(yaw)
    turn = matrix_from_axis_angle(torch.stack([zero, yaw, zero], 1)) @ matrix_from_axis_angle(
        torch.stack([-pitch, zero, zero], 1)
    )
    blink = [head.expression_names.index(name) for name in ("eyeBlinkLeft", "eyeBlinkRight")]
    eyelids = expression[:, blink] / 2
    expression[:, blink] -= eyelids
    return Codes(shape, expression, jaw, matrix_to_6d(turn).repeat(1, 2), eyelids)


def posed_vertices(head: Head, codes: Codes) -> Floats:
    """[T,V,3] metres, head space, as the tracker's head model poses them."""
    posed = pose_head(head, codes.shape, codes.expression, codes.jaw, codes.eyes, codes.eyelids)
    return posed.vertices.numpy().astype(np.float64)


def vertex_normals(vertices: Floats, faces: NDArray[np.int64], normal_sum: csr_matrix) -> Floats:
    """Unit normals [V,3], area-weighted."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normals = normal_sum @ np.cross(b - a, c - a)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def triangle_areas(vertices: Floats, faces: NDArray[np.int64]) -> Floats:
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def _normal_sum(faces: NDArray[np.int64], vertices: int) -> csr_matrix:
    rows, columns = faces.T.ravel(), np.tile(np.arange(len(faces)), 3)
    return csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(vertices, len(faces)))


def _parts(data: np.lib.npyio.NpzFile, template: Floats) -> NDArray[np.int64]:
    """The file's parts, and the lining of the mouth (hidden skin behind the lips) as one more."""
    part = data["vertex_part"].astype(np.int64)
    hidden = (part == SKIN) & ~data["vertex_visible"]
    # Hidden skin also lines the eye sockets and the ears; the mouth's lies lower than both and further forward.
    part[hidden & (template[:, 1] < -0.035) & (template[:, 2] > -0.032)] = MOUTH_BAG
    return part


def _eye_centres(head: Head, neutral: Floats) -> Floats:
    joints = head.joint_regressor.numpy().astype(np.float64) @ neutral
    return joints[3:5]


def _visibility(vertices: Floats, faces: NDArray[np.int64], normal_sum: csr_matrix) -> Floats:
    """[V,2]: cosine-weighted share of the directions around a vertex that are free, and of those near the key light."""
    normals = vertex_normals(vertices, faces, normal_sum)
    directions = _sphere(OCCLUSION_DIRECTIONS)
    key = KEY_LIGHT / np.linalg.norm(KEY_LIGHT)
    spread = key + 0.22 * _sphere(10)  # a soft box, not a point
    free, possible = np.zeros(len(vertices)), np.full(len(vertices), 1e-6)
    for direction in directions:
        cosine = np.maximum(normals @ direction, 0)
        free += cosine * _seen_from(direction, vertices, normals, faces)
        possible += cosine
    lit = np.mean([_seen_from(d / np.linalg.norm(d), vertices, normals, faces) for d in spread], axis=0)
    return np.stack([free / possible, lit], axis=1)


def _sphere(count: int) -> Floats:
    """Evenly spread unit vectors (Fibonacci spiral)."""
    i = np.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, i * np.pi * (1 + np.sqrt(5))
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)


def _seen_from(direction: Floats, vertices: Floats, normals: Floats, faces: NDArray[np.int64]) -> Floats:
    """[V]: 1 where nothing lies between a vertex and a far light in `direction`, 0 in shadow, soft at edges."""
    right = np.cross([0.3, 1.0, 0.2], direction)
    right /= np.linalg.norm(right)
    far = 5.0  # metres: nearly parallel rays, so that the perspective rasterizer serves
    R = np.stack([right, np.cross(-direction, right), -direction])
    focal = OCCLUSION_SIZE / 0.36 * far
    K = np.array([[focal, 0, OCCLUSION_SIZE / 2], [0, focal, OCCLUSION_SIZE / 2], [0, 0, 1.0]])
    t = np.array([0, 0, far])
    pixels, depth = project(vertices, R, t, K)
    surface = rasterize_mesh(pixels, depth, faces, OCCLUSION_SIZE, OCCLUSION_SIZE).depth
    # Look from 2.5 mm outside the surface, so that a vertex does not shade itself.
    pixels, depth = project(vertices + 0.0025 * normals, R, t, K)
    column, row = (np.clip(pixels[:, i].astype(int), 0, OCCLUSION_SIZE - 1) for i in (0, 1))
    return np.clip((surface[row, column] - depth + 0.001) / 0.001, 0, 1)
