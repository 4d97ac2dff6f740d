"""Faces that a detector misses in the whole picture and finds in the part about where the face was."""

from __future__ import annotations

import numpy as np
import pytest

from tests.track_videos import PaintedFaceDetector, picture
from tracking.closer_look import look_again, wanted
from tracking.detection import one_by_one
from tracking.detector import Face
from tracking.footage import ByteImage, Picture
from tracking.landmarks import Search, look_for_faces

WIDTH, HEIGHT = 160, 640


class ShortSighted(PaintedFaceDetector):
    """Misses the face in whole pictures with these numbers."""

    def __init__(self, missed: set[int]) -> None:
        super().__init__()
        self.missed = missed
        self.sizes: list[tuple[int, ...]] = []

    def detect(self, rgb: ByteImage, time: float) -> list[Face]:
        return [] if round(25 * time) in self.missed else super().detect(rgb, time)

    def detect_alone(self, rgb: ByteImage) -> list[Face]:
        self.sizes.append(rgb.shape)
        return super().detect(rgb, 0.0)


def tall(count: int, faces: tuple[tuple[float, float, float], ...] = ((60, 300, 30),)) -> list[Picture]:
    return [Picture(i, i / 25, picture(faces, width=WIDTH, height=HEIGHT, seed=i)) for i in range(count)]


def again(pictures: list[Picture], missed: set[int]) -> tuple[Search, ShortSighted, int]:
    detector = ShortSighted(missed)
    search = look_for_faces(one_by_one(pictures, detector, lambda: None))
    near = wanted(search)
    found = look_again(search, near, [p for p in pictures if p.index in near], detector.detect_alone)
    return search, detector, found


@pytest.mark.parametrize("missed", [{0, 1}, {4, 5, 6}, {9}])
def test_missed_faces_are_found_in_the_crop(missed: set[int]) -> None:
    search, detector, found = again(tall(10), missed)
    assert found == len(missed)
    places = [sighting.faces[0].points for sighting in search.sightings]
    assert all(np.abs(points - places[3 if 3 not in missed else 8]).max() < 2 for points in places), "mapped back"
    assert all(max(size) < 200 for size in detector.sizes), "a part of the picture, not all of it"


def test_what_is_not_there_is_not_found() -> None:
    empty = [Picture(p.index, p.time, picture((), width=WIDTH, height=HEIGHT, seed=p.index)) for p in tall(10)]
    pictures = tall(10)
    pictures[4:6] = empty[4:6]
    search, _, found = again(pictures, set())
    assert found == 0 and [len(s.faces) for s in search.sightings[3:7]] == [1, 0, 0, 1]


def test_a_face_of_another_size_is_no_match() -> None:
    pictures = tall(10)
    pictures[4] = tall(10, ((60, 300, 12),))[4]
    assert again(pictures, {4})[2] == 0


def test_nothing_is_looked_at_again_where_the_face_was_not_seen_for_long() -> None:
    search = look_for_faces(one_by_one(tall(120), ShortSighted(set(range(10, 120))), lambda: None))
    assert max(wanted(search)) == 59, "two seconds after picture 9"
    assert wanted(look_for_faces(one_by_one(tall(3), ShortSighted({0, 1, 2}), lambda: None))) == {}
