"""Whose face is tracked, and where it is in every picture: detection, shots, and following one person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from tracking.detection import Seen
from tracking.detector import Face
from tracking.footage import ByteImage, Dropped
from tracking.records import Floats, Indices

COLOUR_CUT = 15.0        # mean shift of the colours' distribution, levels of 255; within a shot 3 is hardly reached
LAYOUT_CUT = 25.0        # mean difference of thumbnails, levels of 255, that is a cut when no face stays in place
SAME_FACE_OVERLAP = 0.2  # intersection over union of the boxes of one face in two pictures in a row
MAX_STEP = 0.7           # face sizes that a followed face moves between two pictures at most
MAX_STEP_AFTER_GAP = 1.5  # the same after it was out of sight
MAX_GROWTH = 1.6         # ratio of the sizes of one face in two pictures in a row, at most
MAX_OUTSIDE = 0.25       # share of landmarks beyond the picture's border; MediaPipe guesses those


class NoFaceError(ValueError):
    """No face, or too little of one; the message says what was found and what to do."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """What was found in one picture. cut: a new shot begins with it."""

    index: int
    time: float
    faces: Sequence[Face]
    cut: bool


@dataclass(frozen=True, eq=False)
class Track:
    """The followed face in T pictures of one shot of a clip whose pictures have width x height pixels.

    index int64 [T], time [T] seconds: which pictures. points [T,478,3], blendshapes [T,52], pose [T,4,4]: as in `Face`.
    others [T]: how many other faces the picture shows.
    """

    index: Indices
    time: NDArray[np.float64]
    points: Floats
    blendshapes: Floats
    pose: Floats
    others: Indices
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.index)


@dataclass
class Search:
    """All that detection found: a sighting per picture, in order, and the size of the pictures."""

    sightings: list[Sighting] = field(default_factory=list)
    width: int = 0
    height: int = 0


def look_for_faces(seen: Iterable[Seen]) -> Search:
    """Take down the faces that were detected in every picture (see `tracking.detection`), in order, and notice cuts."""
    search = Search()
    before: ByteImage | None = None
    for picture, faces, thumbnail in seen:
        last = search.sightings[-1].faces if search.sightings else ()
        cut = before is not None and is_cut(before, thumbnail, last, faces)
        search.sightings.append(Sighting(picture.index, picture.time, faces, cut))
        search.height, search.width = picture.rgb.shape[:2]
        before = thumbnail
    return search


def is_cut(before: ByteImage, after: ByteImage, last: Sequence[Face], faces: Sequence[Face]) -> bool:
    """Whether one shot ends between two pictures, given as thumbnails [64,64,3], with the faces in them."""
    if _colour_shift(before, after) > COLOUR_CUT:
        return True
    if cv2.norm(before, after, cv2.NORM_L1) / before.size < LAYOUT_CUT:
        return False
    return not any(_overlap(a, b) > SAME_FACE_OVERLAP for a in last for b in faces)


def shots_of(sightings: Sequence[Sighting]) -> list[range]:
    """Ranges of sightings without a cut inside."""
    starts = [0, *(i for i, sighting in enumerate(sightings) if sighting.cut and i > 0), len(sightings)]
    return [range(a, b) for a, b in pairwise(starts)]


def follow_face(search: Search, shot: int, dropped: list[Dropped], notes: list[str]) -> Track:
    """The largest face, followed steadily through one shot.

    shot: 0 takes the shot with most pictures of a followed face, n the n-th of the clip. What is left out is noted in
    `dropped`, what the user should know in `notes`.

    Raises:
        NoFaceError: there is no face in the shot.
        ValueError: there is no such shot.
    """
    shots = shots_of(search.sightings)
    if not 0 <= shot <= len(shots):
        raise ValueError(f"--shot: 0 (the longest) to {len(shots)} expected, for the clip has {len(shots)} "
                         f"shot(s); got {shot}")
    followed = [_largest_trail([search.sightings[i] for i in shot_range]) for shot_range in shots]
    chosen = shot - 1 if shot else int(np.argmax([len(trail) for trail in followed]))
    if not followed[chosen]:
        seen = len(search.sightings)
        raise NoFaceError(f"no face was found in any of the {seen} pictures looked at; the face must be well lit, "
                          "upright, turned to the camera, and at least a tenth of the picture high")
    if len(shots) > 1:
        notes.append(_about_cuts(search, shots, chosen))
    trail = followed[chosen]
    for number, shot_range in enumerate(shots):
        for i in shot_range:
            sighting = search.sightings[i]
            reason = _reason_to_drop(sighting, trail if number == chosen else None, (search.width, search.height))
            if reason:
                trail.pop(sighting.index, None)
                dropped.append(Dropped(sighting.index, sighting.time, reason))
    kept = [s for s in search.sightings if s.index in trail]
    if not kept:
        raise NoFaceError("the face is cut off by the picture's border throughout; film it with room around the head")
    return _track(search, kept, trail)


def face_size(points: Floats) -> Floats:
    """Distance from forehead to chin in pixels, of landmarks [...,478,3]; depth included, so nodding changes little."""
    forehead, chin = 10, 152  # MediaPipe's numbers
    return np.linalg.norm(points[..., forehead, :] - points[..., chin, :], axis=-1)


def _reason_to_drop(sighting: Sighting, trail: dict[int, Face] | None, size: tuple[int, int]) -> str | None:
    if trail is None:
        return "another shot"
    if not sighting.faces:
        return "no face found"
    if sighting.index not in trail:
        return "the followed face is not seen, another is"
    x, y = trail[sighting.index].points[:, :2].T
    outside = np.mean((x < 0) | (y < 0) | (x > size[0]) | (y > size[1]))
    return "the face is cut off by the picture's border" if outside > MAX_OUTSIDE else None


def _track(search: Search, kept: Sequence[Sighting], trail: dict[int, Face]) -> Track:
    faces = [trail[s.index] for s in kept]
    return Track(
        index=np.array([s.index for s in kept], np.int64), time=np.array([s.time for s in kept], np.float64),
        points=np.stack([f.points for f in faces]), blendshapes=np.stack([f.blendshapes for f in faces]),
        pose=np.stack([f.pose for f in faces]), others=np.array([len(s.faces) - 1 for s in kept], np.int64),
        width=search.width, height=search.height,
    )


def _about_cuts(search: Search, shots: Sequence[range], chosen: int) -> str:
    times = ", ".join(f"{search.sightings[s.start].time:.1f}" for s in shots[1:6])
    more = " ..." if len(shots) > 6 else ""
    first, last = search.sightings[shots[chosen].start].time, search.sightings[shots[chosen][-1]].time
    return (f"the clip has cuts (at {times} s{more}); shot {chosen + 1} of {len(shots)} was taken, from {first:.1f} to "
            f"{last:.1f} s (--shot takes another)")


def _largest_trail(sightings: Sequence[Sighting]) -> dict[int, Face]:
    """The face that covers most picture area over a shot, by picture number; empty when there is none."""
    trails: list[dict[int, Face]] = []
    for position, sighting in enumerate(sightings):
        last_index = sightings[position - 1].index if position else -1
        _extend_trails(trails, sighting, last_index)
    return max(trails, key=lambda t: sum(float(face_size(f.points)) ** 2 for f in t.values()), default={})


def _extend_trails(trails: list[dict[int, Face]], sighting: Sighting, last_index: int) -> None:
    """Give each face to the trail whose last face is nearest, the nearest pairs first; others start trails."""
    pairs = []
    for t, trail in enumerate(trails):
        last = next(reversed(trail))
        limit = MAX_STEP if last == last_index else MAX_STEP_AFTER_GAP
        for f, face in enumerate(sighting.faces):
            step, growth = step_between(trail[last], face)
            if step < limit and growth < MAX_GROWTH:
                pairs.append((step, t, f))
    given_trails: set[int] = set()
    given_faces: set[int] = set()
    for _, t, f in sorted(pairs):
        if t not in given_trails and f not in given_faces:
            trails[t][sighting.index] = sighting.faces[f]
            given_trails.add(t)
            given_faces.add(f)
    trails.extend({sighting.index: face} for f, face in enumerate(sighting.faces) if f not in given_faces)


def step_between(a: Face, b: Face) -> tuple[float, float]:
    """How far a face moved, in face sizes, and by which factor its size changed (1 or more)."""
    sizes = float(face_size(a.points)), float(face_size(b.points))
    small, large = max(min(sizes), 1e-3), max(sizes)
    distance = float(np.linalg.norm(a.points[:, :2].mean(axis=0) - b.points[:, :2].mean(axis=0)))
    return distance / max(large, 1e-3), large / small


def _overlap(a: Face, b: Face) -> float:
    """Intersection over union of the boxes of two faces."""
    low = np.maximum(a.points[:, :2].min(axis=0), b.points[:, :2].min(axis=0))
    high = np.minimum(a.points[:, :2].max(axis=0), b.points[:, :2].max(axis=0))
    shared = float(np.prod(np.maximum(high - low, 0)))
    areas = [float(np.prod(np.ptp(face.points[:, :2], axis=0))) for face in (a, b)]
    return shared / max(sum(areas) - shared, 1e-6)


def _colour_shift(a: ByteImage, b: ByteImage) -> float:
    """Mean distance between the colour distributions of two thumbnails, in levels: how far values must move to turn
    one into the other, wherever they lie in the picture (1-Wasserstein, per channel). Motion changes it little, and
    changing light no more than it changes the levels.
    """
    below = [np.stack([np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(3)]).cumsum(axis=1)
             for image in (a, b)]
    return float(np.abs(below[0] - below[1]).sum() / a.size)
