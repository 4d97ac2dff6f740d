"""One frame of the demo subject: mesh, strands, anti-aliasing, RGBA."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from data.demo import hair, shading
from data.demo.atlas import Floats, Image, smoothstep
from data.demo.motion import FOCAL
from data.demo.shading import Samples, Scene
from data.demo.subject import (
    LEFT_EYE,
    LOWER_TEETH,
    MOUTH_BAG,
    RIGHT_EYE,
    SKIN,
    TONGUE,
    UPPER_TEETH,
    Subject,
    vertex_normals,
)
from utils.images import ByteImage
from utils.mesh_raster import MeshBuffers, project, rasterize_mesh

SUPERSAMPLING = 2
EXPOSURE = 0.78


def render(
    subject: Subject, vertices: Floats, expression: Floats, R: Floats, t: Floats, turn: Floats, size: int
) -> ByteImage:
    """Draw one frame: uint8 RGBA [size,size,4], colour not premultiplied.

    vertices [V,3]: posed, head space. expression [E]: codes with whole blinks (they drive wrinkles and flushes).
    R [3,3], t [3]: head to camera; turn [3,3]: the head's rotation in the room, which places the window.
    """
    raster = size * SUPERSAMPLING
    view = hair.View(R, t, intrinsics(raster), raster)
    window = shading.ROOM_LIGHT @ turn  # room to head: multiply by the transpose
    scene = Scene(vertices, vertex_normals(vertices, subject.faces, subject.normal_sum), expression, -R.T @ t,
                  window / np.linalg.norm(window))
    pixels, depth = project(vertices, R, t, view.K)
    buffers = rasterize_mesh(pixels, depth, subject.faces, raster, raster, cull_back=True)
    colour, alpha = _surface(subject, scene, buffers, view)
    surface = np.where(alpha > 0, buffers.depth, np.inf)
    for strands in (hair.skin_hair(subject, scene), hair.head_hair(subject)):
        segments = hair.visible(strands, scene, view, surface)
        touched, blended, through = hair.draw(segments, surface, view.K[0, 0], strands.bias, encode)
        colour[touched] = blended + through[:, None] * colour[touched]
        alpha.reshape(-1)[touched] = 1 - through * (1 - alpha.reshape(-1)[touched])
    return _resolve(colour, alpha, size)


def intrinsics(size: int) -> Floats:
    """Pixel K [3,3] of a square raster."""
    return np.array([[FOCAL * size, 0, size / 2], [0, FOCAL * size, size / 2], [0, 0, 1.0]])


def encode(linear: Image) -> Image:
    """Linear light to display values in 0 .. 1: a soft shoulder, then gamma 2.2."""
    return (1 - np.exp(-EXPOSURE * np.maximum(linear, 0))) ** np.float32(1 / 2.2)


def _surface(subject: Subject, scene: Scene, buffers: MeshBuffers, view: hair.View) -> tuple[Image, Image]:
    """Display colour [H*W,3] (black where nothing is) and alpha [H,W] of the mesh."""
    covered = np.flatnonzero(buffers.triangle.reshape(-1) >= 0)
    part = subject.part[subject.faces[buffers.triangle.reshape(-1)[covered]]].max(axis=1)
    samples = _samples(subject, scene, buffers, covered, _openings(buffers, covered, part, view))
    kept = ~_below_neck(samples.template)
    covered, part, samples = covered[kept], part[kept], samples[kept]
    linear = np.zeros((len(covered), 3), np.float32)
    painters = {
        SKIN: lambda chosen: shading.shade_skin(subject, scene, chosen),
        LEFT_EYE: lambda chosen: shading.shade_eye(subject, scene, chosen, 0),
        RIGHT_EYE: lambda chosen: shading.shade_eye(subject, scene, chosen, 1),
        UPPER_TEETH: lambda chosen: shading.shade_teeth(scene, chosen, UPPER_TEETH),
        LOWER_TEETH: lambda chosen: shading.shade_teeth(scene, chosen, LOWER_TEETH),
        TONGUE: lambda chosen: shading.shade_inside(scene, chosen),
        MOUTH_BAG: lambda chosen: shading.shade_inside(scene, chosen),
    }
    for number, paint in painters.items():
        chosen = part == number
        if chosen.any():
            linear[chosen] = paint(samples[chosen])
    colour = np.zeros((view.size**2, 3), np.float32)
    colour[covered] = encode(linear)
    alpha = np.zeros(view.size**2, np.float32)
    alpha[covered] = 1
    return colour, alpha.reshape(view.size, view.size)


def _samples(
    subject: Subject, scene: Scene, buffers: MeshBuffers, covered: NDArray[np.int64], inside: Image
) -> Samples:
    """Interpolate the vertex table at the covered pixels."""
    triangle = buffers.triangle.reshape(-1)[covered].astype(np.int64)
    barycentric = buffers.barycentric.reshape(-1, 3)[covered]
    count = len(covered)
    weights = csr_matrix(
        (barycentric.ravel(), subject.faces[triangle].ravel(), np.arange(count + 1) * 3),
        shape=(count, len(scene.vertices)),
    )
    table = weights @ shading.vertex_table(subject, scene)
    position, normal, template = table[:, 0:3], table[:, 3:6], table[:, 6:9]
    normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    to_eye = scene.eye.astype(np.float32) - position
    to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
    sky, key, blood, ear, bag = (table[:, column] for column in range(9, 14))
    return Samples(
        triangle, barycentric, position, normal, template, to_eye, sky, key, blood, ear, bag, inside
    )


def _openings(buffers: MeshBuffers, covered: NDArray[np.int64], part: NDArray[np.int64], view: hair.View) -> Image:
    """[M]: 1 on the skin; in the mouth and between the lids, how far a pixel is from the rim that shades it."""
    inside = np.ones(len(covered), np.float32)
    metre = view.K[0, 0] / max(view.t[2], 0.1)  # pixels a metre at the head
    groups = (((LEFT_EYE, RIGHT_EYE), 0.0050, (0.35, 0.85)),
              ((UPPER_TEETH, LOWER_TEETH, TONGUE, MOUTH_BAG), 0.0060, (0.20, 0.80)))
    for parts, reach, (dark, bright) in groups:
        chosen = np.isin(part, parts)
        mask = np.zeros(view.size**2, np.float32)
        mask[covered[chosen]] = 1
        side = max(int(reach * metre), 1) | 1
        # The window looks upwards: lids and upper lip throw the deeper shadow.
        anchor = (side // 2, min(side - 1, 2 * side // 3))
        near = np.asarray(cv2.blur(mask.reshape(view.size, view.size), (side, side), anchor=anchor), np.float32)
        inside[chosen] = smoothstep(dark, bright, near.reshape(-1)[covered[chosen]])
    return np.where(inside < 1, 0.12 + 0.88 * inside, 1).astype(np.float32)


def _below_neck(template: Image) -> NDArray[np.bool_]:
    """Where the picture ends at the collar, as in data sets that cut the clothes away."""
    x, y, z = template.T
    shoulder = np.hypot(x, 0.8 * (z + 0.062))
    return (y < -0.152 + 0.028 * smoothstep(0.02, -0.09, z)) | ((shoulder > 0.066) & (y < -0.112))


def _resolve(colour: Image, alpha: Image, size: int) -> ByteImage:
    """Average the samples of each pixel; colour [H*W,3] is premultiplied, the result is not."""
    raster = alpha.shape[0]
    planes = np.concatenate([colour.reshape(raster, raster, 3), alpha[..., None]], axis=2)
    planes = planes.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 4).mean(axis=(1, 3))
    planes[..., :3] /= np.maximum(planes[..., 3:], 1e-3)
    return np.rint(np.clip(planes, 0, 1) * 255).astype(np.uint8)
