"""Pictures without a face, looked at again: in the square about where the face was before or is after.

A detector makes the whole picture small first. In tall or wide footage the face is then a few pixels wide, and an
unusual one, with the mouth wide open, is missed. In the square about it the same detector sees it several times larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from tracking.detector import Face
from tracking.footage import ByteImage, Picture
from tracking.landmarks import MAX_GROWTH, MAX_STEP_AFTER_GAP, Search, face_size, shots_of, step_between
from tracking.records import Floats

SIDE = 2.2        # face sizes: side of the square
PER_SECOND = 1.0  # face sizes that a side grows for every second since the face was seen
LARGEST = 4.0     # face sizes
LONGEST = 2.0     # seconds without the face, after which nothing is known of its place


def wanted(search: Search) -> dict[int, list[tuple[float, Face]]]:
    """Numbers of the pictures to look at again -> the faces nearest in time in the same shot, each with the seconds
    between: of the last picture with faces before, and of the first one after."""
    found: dict[int, list[tuple[float, Face]]] = {}
    for shot in shots_of(search.sightings):
        seen = [search.sightings[i] for i in shot if search.sightings[i].faces]
        times = np.array([s.time for s in seen])
        for i in shot:
            sighting = search.sightings[i]
            if sighting.faces or not seen:
                continue
            after = int(np.searchsorted(times, sighting.time))
            near = [(abs(s.time - sighting.time), face) for s in seen[max(after - 1, 0):after + 1] for face in s.faces]
            near = [item for item in near if item[0] <= LONGEST]
            if near:
                found[sighting.index] = sorted(near, key=lambda item: item[0])
    return found


def look_again(
    search: Search, near: dict[int, list[tuple[float, Face]]], pictures: Iterable[Picture],
    detect: Callable[[ByteImage], list[Face]],
) -> int:
    """Put the faces that a closer look finds into `search`; returns in how many pictures it found one.

    near: see `wanted`. pictures: those that it names. detect: finds faces in a single picture, whatever came before.
    """
    faces = {picture.index: _closer(picture.rgb, near[picture.index], detect) for picture in pictures}
    search.sightings = [replace(s, faces=faces.get(s.index) or s.faces) for s in search.sightings]
    return sum(1 for found in faces.values() if found)


def _closer(
    rgb: ByteImage, near: list[tuple[float, Face]], detect: Callable[[ByteImage], list[Face]]
) -> list[Face]:
    for seconds, known in near:
        low, high = _square(known.points, seconds, rgb.shape)
        if (high - low < 8).any():
            continue
        cut = np.ascontiguousarray(rgb[low[1]:high[1], low[0]:high[0]])
        found = [replace(face, points=face.points + np.array([*low, 0], np.float32)) for face in detect(cut)]
        alike = [face for face in found if _same(known, face)]
        if alike:
            return alike
    return []


def _square(points: Floats, seconds: float, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Two corners (x, y) of the square, as far as it lies within a picture of this shape."""
    side = float(face_size(points)) * min(SIDE + PER_SECOND * seconds, LARGEST)
    middle = (points[:, :2].min(axis=0) + points[:, :2].max(axis=0)) / 2
    extent = np.array([shape[1], shape[0]])
    low, high = np.rint(middle - side / 2).astype(int), np.rint(middle + side / 2).astype(int)
    return np.clip(low, 0, extent), np.clip(high, 0, extent)


def _same(known: Face, face: Face) -> bool:
    step, growth = step_between(known, face)
    return step < MAX_STEP_AFTER_GAP and growth < MAX_GROWTH
