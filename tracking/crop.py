"""One steady square around head and neck for the whole clip, and the pictures cut by it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tracking.footage import ByteImage
from tracking.landmarks import Track, face_size
from tracking.records import Floats, Observations

# Face sizes (forehead to chin) from the middle of the face to the sides of the square. Wanted: all hair of most people
# and the neck down to the collar. Needed: what the avatar cannot do without; the square shrinks to it before it
# reaches beyond the picture.
WANTED = {"left": 1.0, "right": 1.0, "up": 1.15, "down": 1.2}
NEEDED = {"left": 0.65, "right": 0.65, "up": 0.75, "down": 0.7}
RARE = 1.0  # percent: of the pictures, those at either end of the head's travel that do not decide the square


@dataclass(frozen=True)
class Crop:
    """A square of the picture, resized to size x size. left, top, side: in its pixels; may reach beyond its border."""

    left: int
    top: int
    side: int
    size: int

    @property
    def scale(self) -> float:
        """Pixels of the crop per pixel of the picture."""
        return self.size / self.side

    def resized(self, size: int) -> Crop:
        """The same square at another resolution."""
        return Crop(self.left, self.top, self.side, size)

    def points(self, points: Floats) -> Floats:
        """x, y of points [...,2] of the picture in pixels of the crop (pixel i's centre at i + 0.5 in both)."""
        return ((points - (self.left, self.top)) * self.scale).astype(np.float32)

    def cut(self, image: ByteImage) -> ByteImage:
        """The square out of a picture [H,W] or [H,W,C]; beyond the picture its border pixels are repeated."""
        height, width = image.shape[:2]
        x0, y0, x1, y1 = self.left, self.top, self.left + self.side, self.top + self.side
        inside = image[max(y0, 0):min(y1, height), max(x0, 0):min(x1, width)]
        if inside.shape[:2] != (self.side, self.side):
            beyond = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
            inside = np.asarray(cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_REPLICATE), np.uint8)
        if self.side == self.size:
            return np.ascontiguousarray(inside)
        # Averaging when it shrinks keeps hair from flickering; smooth interpolation when it grows.
        method = cv2.INTER_AREA if self.size < self.side else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(inside, (self.size, self.size), interpolation=method), np.uint8)

    def inside(self, width: int, height: int) -> ByteImage:
        """uint8 [size,size]: 255 where the crop shows the picture of width x height, 0 where its border is repeated."""
        at = (np.arange(self.size) + 0.5) / self.scale
        across = (at + self.left >= 0) & (at + self.left <= width)
        down = (at + self.top >= 0) & (at + self.top <= height)
        return np.where(down[:, None] & across, 255, 0).astype(np.uint8)


def choose_crop(track: Track, size: int) -> Crop:
    """One square that holds head and neck in (nearly) every picture of the track.

    It lies within the picture where it can; where the head fills the picture the square keeps to what is needed.
    """
    wanted, needed = _box(track, WANTED), _box(track, NEEDED)
    shorter = min(track.width, track.height)
    side = round(float(max(wanted[1] - wanted[0])))
    if side > shorter:
        side = max(shorter, round(float(max(needed[1] - needed[0]))))
    middle = wanted.mean(axis=0)
    # A square smaller than wanted must above all hold what is needed: it is shifted that far.
    middle = np.clip(middle, needed[1] - side / 2, np.maximum(needed[0] + side / 2, needed[1] - side / 2))
    left, top = (_place(float(c) - side / 2, side, extent)
                 for c, extent in zip(middle, (track.width, track.height), strict=True))
    return Crop(left, top, side, size)


def observe(
    track: Track, crop: Crop, lens: tuple[float, tuple[float, float]] | tuple[None, None] = (None, None)
) -> Observations:
    """The track in pixels of the crop. lens: focal length and principal point where they are known, in pixels of it."""
    return Observations(
        landmarks=crop.points(track.points[:, :, :2]), depth=(track.points[:, :, 2] * crop.scale).astype(np.float32),
        blendshapes=track.blendshapes, pose=track.pose, size=crop.size, source_index=track.index,
        focal=lens[0], principal=lens[1],
    )


def _box(track: Track, margins: dict[str, float]) -> Floats:
    """[[left, top], [right, bottom]] in pixels of the picture: the head's travel and margins of its usual size."""
    middle = track.points[:, :, :2].mean(axis=1)
    size = np.percentile(face_size(track.points), 100 - RARE)
    low, high = np.percentile(middle, RARE, axis=0), np.percentile(middle, 100 - RARE, axis=0)
    return np.stack([low - size * np.array([margins["left"], margins["up"]]),
                     high + size * np.array([margins["right"], margins["down"]])])


def _place(start: float, side: int, extent: int) -> int:
    """Where a side begins: shifted into the picture if it fits, centred over it if not."""
    if side >= extent:
        return (extent - side) // 2
    return round(min(max(start, 0), extent - side))
