"""Strands to pixels: lines thinner than a pixel, blended in exact depth order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.demo.atlas import Floats, Image
from data.demo.shading import FILL, KEY, ROOM, SKY, Scene
from data.demo.subject import KEY_LIGHT, Subject
from utils.mesh_raster import project

HAIR = np.array([0.092, 0.045, 0.021], np.float32)  # linear RGB
HIGHLIGHT = np.array([1.0, 0.85, 0.68], np.float32)
BROW = np.array([0.022, 0.012, 0.008], np.float32)
STEP = 0.9             # samples along a strand are at most this many pixels apart
MAX_COVERAGE = 0.97


@dataclass(frozen=True, eq=False)
class View:
    """A camera at raster size: R [3,3], t [3], K [3,3] (float64), size in pixels (square)."""

    R: Floats
    t: Floats
    K: Floats
    size: int


@dataclass(frozen=True, eq=False)
class Strands:
    """Hairs of one kind in head space. points [N,P,3], radius [N,P]: metres; shade [N,P]: share of light that arrives;
    tone [N]: brightness factor; colour [3]: linear RGB; gloss: strength; bias: metres that a hair may lie behind the
    surface and still show, because its root is in the skin.
    """

    points: Floats
    radius: Floats
    shade: Floats
    tone: Floats
    colour: Image
    gloss: float
    bias: float


@dataclass(frozen=True, eq=False)
class Segments:
    """S pieces of strands. start, end [S,2] pixels; start_depth, end_depth [S]; radius [S] metres; colour [S,3]."""

    start: Floats
    end: Floats
    start_depth: Floats
    end_depth: Floats
    radius: Floats
    colour: Image


def head_hair(subject: Subject) -> Strands:
    """The head's hair; it stays with the skull."""
    hair = subject.hair
    return Strands(hair.points, hair.radius, hair.shade, hair.tone, HAIR, gloss=1.0, bias=1e-3)


def skin_hair(subject: Subject, scene: Scene) -> Strands:
    """Brows, lashes and stubble; they move with the skin."""
    hair = subject.skin_hair
    points = hair.placed(scene.vertices, subject.faces)
    return Strands(points, hair.radius, np.full(points.shape[:2], 0.75), hair.tone, BROW, gloss=0.5, bias=6e-4)


def visible(strands: Strands, scene: Scene, view: View, surface: Image) -> Segments:
    """Lit pieces of strands that are in the picture and not wholly behind the surface (depth [H,W], metres)."""
    count, length = strands.points.shape[:2]
    flat, depth = project(strands.points.reshape(-1, 3), view.R, view.t, view.K)
    column, row = (np.clip(flat[:, i].astype(np.int64), 0, view.size - 1) for i in (0, 1))
    shown = ((flat >= 0) & (flat < view.size)).all(axis=1) & (depth < surface[row, column] + strands.bias)
    shown = shown.reshape(count, length)
    strand, place = np.nonzero(shown[:, :-1] | shown[:, 1:])
    start = strand * length + place
    colour = _lit(strands, strand, place, scene) * strands.tone[strand, None]
    radius = (strands.radius[strand, place] + strands.radius[strand, place + 1]) / 2
    return Segments(flat[start], flat[start + 1], depth[start], depth[start + 1], radius, colour.astype(np.float32))


def _lit(strands: Strands, strand: NDArray[np.int64], place: NDArray[np.int64], scene: Scene) -> Image:
    """Linear RGB [S,3] of pieces place .. place + 1 (Kajiya and Kay's model: a hair is a thin cylinder)."""
    points = strands.points.astype(np.float32)
    start, end = points[strand, place], points[strand, place + 1]
    along = (end - start) / np.maximum(np.linalg.norm(end - start, axis=1, keepdims=True), 1e-9)
    to_eye = scene.eye.astype(np.float32) - start
    to_eye /= np.linalg.norm(to_eye, axis=1, keepdims=True)
    shade = ((strands.shade[strand, place] + strands.shade[strand, place + 1]) / 2).astype(np.float32)
    matt = np.full(len(start), 0.8 * SKY.mean(), np.float32)
    gloss = np.zeros((len(start), 3), np.float32)
    key = KEY_LIGHT / np.linalg.norm(KEY_LIGHT)
    for direction, radiance in ((key, KEY), (scene.window, ROOM + FILL)):
        direction = direction.astype(np.float32)
        matt += radiance.mean() * np.sqrt(np.clip(1 - (along @ direction) ** 2, 0, 1))
        half = to_eye + direction
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        squared = np.clip(1 - (along * half).sum(axis=1) ** 2, 0, 1)  # of the sine between hair and half vector
        gloss += (0.10 * squared**45 + 0.022 * squared**7)[:, None] * (radiance * HIGHLIGHT)
    return (matt[:, None] * strands.colour + strands.gloss * gloss) * shade[:, None]


def draw(
    segments: Segments, surface: Image, focal: float, bias: float, encode: Callable[[Image], Image]
) -> tuple[NDArray[np.int64], Image, Image]:
    """Blend segments front to back: pixels touched [Q] (flat), premultiplied colour [Q,3], share that passes [Q].

    A segment is a row of samples, each covering as much of its pixel as the strand's area there. bias: metres that a
    strand may lie behind the surface and still show (roots are in the skin). encode: tone mapping.
    """
    size = surface.shape[0]
    span = np.linalg.norm(segments.end - segments.start, axis=1)
    counts = np.maximum(np.ceil(span / STEP), 1).astype(np.int64)
    owner = np.repeat(np.arange(len(counts)), counts)
    place = (np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts) + 0.5) / counts[owner]
    at = segments.start[owner] + place[:, None] * (segments.end - segments.start)[owner]
    depth = segments.start_depth[owner] + place * (segments.end_depth - segments.start_depth)[owner]
    column, row = at[:, 0].astype(np.int64), at[:, 1].astype(np.int64)
    inside = (at >= 0).all(axis=1) & (column < size) & (row < size)
    pixel = np.where(inside, row * size + column, 0)
    inside &= depth < surface.reshape(-1)[pixel] + bias
    owner, pixel, depth = owner[inside], pixel[inside], depth[inside]
    width = 2 * segments.radius[owner] * focal / depth
    covered = np.minimum(width * (span / counts)[owner], MAX_COVERAGE)
    bits = depth.astype(np.float32).view(np.uint32).astype(np.uint64)
    order = np.argsort((pixel.astype(np.uint64) << np.uint64(32)) | bits)
    pixel, covered, colour = pixel[order], covered[order], encode(segments.colour)[owner[order]]
    if not len(pixel):
        return pixel, np.zeros((0, 3), np.float32), np.zeros(0, np.float32)
    first = np.flatnonzero(np.diff(pixel, prepend=-1))
    passed = np.cumsum(np.log1p(-covered))
    before = np.concatenate([[0.0], passed[:-1]])
    weight = covered * np.exp(before - np.repeat(before[first], np.diff([*first, len(pixel)])))
    blended = np.add.reduceat(weight[:, None] * colour, first, axis=0)
    through = np.exp(np.add.reduceat(np.log1p(-covered), first))
    return pixel[first], blended.astype(np.float32), through.astype(np.float32)
