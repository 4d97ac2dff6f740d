"""How far a tracked head lies from the true one, and how steadily: figures for benchmarks/tracking.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.mesh_raster import project

Floats = NDArray[np.float64]
MILLIMETRES = 1000.0


@dataclass(frozen=True, eq=False)
class Placed:
    """A head in T pictures: vertices [T,V,3] in camera axes, metres; K [3,3], pixels."""

    vertices: Floats
    K: Floats

    def pixels(self) -> Floats:
        """[T,V,2]."""
        rest = np.eye(3), np.zeros(3), self.K
        return np.stack([project(frame, *rest)[0] for frame in self.vertices])


@dataclass(frozen=True)
class Errors:
    """RMS over frames and points. vertex: mm, after the rigid motion that fits the face of each picture best and one
    scale for the clip (one camera cannot see how large a head is): what shape and expression miss. skull: the same of
    other points, under the face's motion. rotation: degrees, across and along the view: mm; of the rigid motion,
    without its mean over the clip, which is another choice of axes. distance: share by which the mean distance is off.
    pixels: of points of the face in the picture.
    """

    vertex: float
    skull: float
    rotation: float
    across: float
    along: float
    distance: float
    pixels: float


def errors_of(ours: Placed, true: Placed, face: NDArray[np.int64], skull: NDArray[np.int64]) -> Errors:
    """face, skull: numbers of vertices, the same in both heads."""
    turn, scale = _rigid(ours.vertices[:, face], true.vertices[:, face])
    middle = [clip.vertices[:, face].mean(axis=1) for clip in (ours, true)]

    def left(points: NDArray[np.int64]) -> float:
        own, wanted = (clip.vertices[:, points] - m[:, None] for clip, m in zip((ours, true), middle, strict=True))
        return MILLIMETRES * _rms(scale * own @ turn.transpose(0, 2, 1) - wanted, 3)

    u, _, vt = np.linalg.svd(turn.mean(axis=0))
    wobble = (u @ vt).T @ turn
    angle = np.degrees(np.arccos(np.clip((np.trace(wobble, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    distance = float(np.mean(middle[1][:, 2]) / np.mean(scale * middle[0][:, 2]))
    along = scale * distance * middle[0][:, 2] - middle[1][:, 2]
    # across the view a focal length that is off does not matter: distance and focal length scale together
    bearing = [m[:, :2] / m[:, 2:] * clip.K[0, 0] for m, clip in zip(middle, (ours, true), strict=True)]
    across = (bearing[0] - bearing[1]) * np.mean(middle[1][:, 2]) / true.K[0, 0]
    across -= across.mean(axis=0)
    return Errors(left(face), left(skull), _rms(angle[:, None], 1), MILLIMETRES * _rms(across, 2),
                  MILLIMETRES * _rms(along[:, None], 1), abs(1 - 1 / distance),
                  _rms(ours.pixels()[:, face] - true.pixels()[:, face], 2))


def jitter_at_rest(still: Placed, points: NDArray[np.int64]) -> tuple[float, float]:
    """Standard deviation over pictures in which nothing moves: across and along the view, mm (RMS over points)."""
    spread = MILLIMETRES * still.vertices[:, points].std(axis=0)
    return _rms(spread[:, :2], 2), _rms(spread[:, 2:], 1)


def unsteadiness(pixels: Floats, frames: NDArray[np.int64]) -> float:
    """RMS of second differences of points [T,L,2] about `frames` (1 .. T-2), over sqrt(6): the standard deviation of
    errors that are independent from picture to picture, and little else where motion is slow."""
    bend = pixels[frames + 1] - 2 * pixels[frames] + pixels[frames - 1]
    return _rms(bend, 2) / 6**0.5


def quiet_frames(images: NDArray[np.uint8], share: float = 0.2) -> NDArray[np.int64]:
    """Frames 1 .. T-2 of images [T,H,W] grey with least change to both neighbours, `share` of them, 1 at least."""
    change = np.abs(np.diff(images.astype(np.float32), axis=0)).mean(axis=(1, 2))
    both = np.maximum(change[1:], change[:-1])
    return np.sort(np.argsort(both)[:max(1, round(share * len(both)))]) + 1


def _rigid(ours: Floats, true: Floats) -> tuple[Floats, float]:
    """Rotations [T,3,3] that turn ours into the true points [T,V,3] best (Kabsch 1976), and one scale for all."""
    own, wanted = ours - ours.mean(axis=1, keepdims=True), true - true.mean(axis=1, keepdims=True)
    u, _, vt = np.linalg.svd(wanted.transpose(0, 2, 1) @ own)
    flip = np.ones((len(u), 3))
    flip[:, 2] = np.linalg.det(u @ vt)
    turn = (u * flip[:, None]) @ vt
    return turn, float((wanted * (own @ turn.transpose(0, 2, 1))).sum() / (own * own).sum())


def _rms(values: Floats, width: int) -> float:
    """Root of the mean square length of vectors in the last axis, which has `width` entries."""
    assert values.shape[-1] == width
    return float(np.sqrt(np.mean((values**2).sum(axis=-1))))
