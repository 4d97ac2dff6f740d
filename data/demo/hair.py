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
class Segments:
    """S pieces of strands. start, end [S,2] pixels; start_depth, end_depth [S]; radius [S] metres; colour [S,3]."""

    start: Floats
    end: Floats
    start_depth: Floats
    end_depth: Floats
    radius: Floats
    colour: Image


def head_hair(subject: Subject, scene: Scene, view: View) -> Segments:
    """The head's hair; it stays with the skull."""
    hair = subject.hair
    colour = _hair_light(hair.points, hair.shade, scene) * hair.tone[:, None, None].astype(np.float32)
    return _segments(hair.points, hair.radius, HAIR * colour[..., :1] + colour[..., 1:], view)


def skin_hair(subject: Subject, scene: Scene, view: View) -> Segments:
    """Brows, lashes and stubble; they move with the skin."""
    hair = subject.skin_hair
    points = hair.placed(scene.vertices, subject.faces)
    light = np.full(points.shape[:2], 0.75)
    colour = _hair_light(points, light, scene) * hair.tone[:, None, None].astype(np.float32)
    return _segments(points, hair.radius, BROW * colour[..., :1] + 0.5 * colour[..., 1:], view)


def _hair_light(points: Floats, shade: Floats, scene: Scene) -> Image:
    """[N,P,4]: matt factor and glossy RGB of strands (Kajiya and Kay's model: a hair is a thin cylinder)."""
    along = np.gradient(points, axis=1)
    along /= np.maximum(np.linalg.norm(along, axis=2, keepdims=True), 1e-12)
    to_eye = scene.eye - points
    to_eye /= np.linalg.norm(to_eye, axis=2, keepdims=True)
    matt = 0.8 * SKY.mean() * shade
    gloss = np.zeros((*shade.shape, 3))
    key = KEY_LIGHT / np.linalg.norm(KEY_LIGHT)
    for direction, radiance in ((key, KEY), (scene.window, ROOM + FILL)):
        cosine = along @ direction
        matt += radiance.mean() * np.sqrt(np.clip(1 - cosine**2, 0, 1)) * shade
        half = to_eye + direction
        half /= np.linalg.norm(half, axis=2, keepdims=True)
        sine = np.sqrt(np.clip(1 - (along * half).sum(axis=2) ** 2, 0, 1))
        lobe = 0.10 * sine**90 + 0.022 * sine**14
        gloss += (lobe * shade)[..., None] * radiance * np.array([1.0, 0.85, 0.68])
    return np.concatenate([matt[..., None], gloss], axis=2).astype(np.float32)


def _segments(points: Floats, radius: Floats, colour: Image, view: View) -> Segments:
    count, length = points.shape[:2]
    pixels, depth = project(points.reshape(-1, 3), view.R, view.t, view.K)
    pixels, depth = pixels.reshape(count, length, 2), depth.reshape(count, length)

    def halves(values: NDArray) -> tuple[NDArray, NDArray]:
        return (values[:, :-1].reshape(-1, *values.shape[2:]), values[:, 1:].reshape(-1, *values.shape[2:]))

    (start, end), (near, far) = halves(pixels), halves(depth)
    thick = np.mean(halves(radius), axis=0)
    return Segments(start, end, near, far, thick, np.mean(halves(colour), axis=0))


def visible(segments: Segments, surface: Image, bias: float) -> Segments:
    """The segments that are in the picture and not wholly behind the surface (`surface`: depth [H,W], metres)."""
    size = surface.shape[0]
    shown = np.zeros(len(segments.radius), bool)
    for pixels, depth in ((segments.start, segments.start_depth), (segments.end, segments.end_depth)):
        column, row = (np.clip(pixels[:, i].astype(np.int64), 0, size - 1) for i in (0, 1))
        inside = ((pixels >= 0) & (pixels < size)).all(axis=1)
        shown |= inside & (depth < surface[row, column] + bias)
    return Segments(*(getattr(segments, name)[shown] for name in segments.__dataclass_fields__))


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
