"""The process that watches the camera: landmarks of the newest picture, what is kept, and what the page shows.

It waits for nobody: what others have no room for is dropped.
"""

from __future__ import annotations

import pickle
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from online.coverage import Coverage, seen_in
from online.recorded_landmarks import RecordedDetector
from reenactment.face import FaceReader, Seen
from reenactment.motion import angles_of_turn
from reenactment.webcam import Camera, CameraError
from tracking.detector import Detector, Face, MediaPipeDetector
from tracking.landmarks import face_size
from tracking.records import BLENDSHAPE_NAMES

ByteImage = NDArray[np.uint8]
PREVIEW = 360  # pixels: height of the picture for the page
USUAL = 30  # pictures after which the usual view is known
DOT, DOT_OTHERS = (120, 255, 120), (255, 90, 90)


class Box(Protocol):
    """A queue between processes, or between threads."""

    def put(self, obj: Any) -> None: ...
    def put_nowait(self, obj: Any) -> None: ...
    def get(self) -> Any: ...
    def get_nowait(self) -> Any: ...


class Flag(Protocol):
    """An event of processes or threads."""

    def is_set(self) -> bool: ...
    def set(self) -> None: ...


@dataclass(frozen=True)
class WatchSettings:
    """source, flag: of the camera or film. rate, most: kept pictures a second and altogether. detector: instead of
    MediaPipe's; makes one in the process.
    """

    source: str
    flag: str
    rate: float
    most: int
    face_model: Path | None = None
    landmarks: Path | None = None
    detector: Callable[[], Detector] | None = None


@dataclass(frozen=True, eq=False)
class Glance:
    """One picture as others hear of it. number, arrived (time.perf_counter), waited: seconds from its arrival until it
    was looked at. faces: how many are seen; seen: the largest, steadied. kept: number among the kept pictures, or None.
    preview: uint8 RGB with landmarks. share, missing, table: of the coverage.
    """

    number: int
    arrived: float
    waited: float
    faces: int
    seen: Seen | None
    kept: int | None
    preview: ByteImage
    share: float
    missing: tuple[str, ...]
    table: str


@dataclass(frozen=True, eq=False)
class Kept:
    """A picture that is recorded: its number among them, its time in seconds, RGB, and its face."""

    number: int
    time: float
    rgb: ByteImage
    face: Face


@dataclass(frozen=True)
class Ended:
    """The process has come to its end: why, if that is an error. pictures, dropped: looked at, and not told because the
    page had no room.
    """

    error: str = ""
    pictures: int = 0
    dropped: int = 0


class Remembering:
    """A detector whose last answer can be read again: the reader of faces and the recording share one look."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self.faces: list[Face] = []

    def detect(self, rgb: ByteImage, time: float) -> list[Face]:
        self.faces = self._detector.detect(rgb, time)
        return self.faces


class Keeper:
    """Decides which pictures are kept: those with one whole face, not more than `rate` a second."""

    def __init__(self, rate: float, most: int) -> None:
        self.coverage, self.count = Coverage(), 0
        self._pause, self._most, self._due = 1 / rate, most, -np.inf
        self._views: list[tuple[float, float]] = []

    def wants(self, faces: list[Face], shape: tuple[int, ...], time: float) -> bool:
        if len(faces) != 1 or self.count >= self._most or time < self._due:
            return False
        points, (height, width) = faces[0].points[:, :2], shape[:2]
        return bool((points >= 0).all() and (points <= (width, height)).all())

    def keep(self, face: Face, time: float) -> int:
        """Count a picture that was passed on; returns its number."""
        self._due = time + self._pause
        yaw, pitch, _ = (float(np.degrees(angle)) for angle in angles_of_turn(torch.from_numpy(face.pose[:3, :3])))
        self._views = [*self._views, (yaw, pitch)][:USUAL]
        usual = [median(column) for column in zip(*self._views, strict=True)]
        scores = dict(zip(BLENDSHAPE_NAMES, face.blendshapes.tolist(), strict=True))
        self.coverage.add(seen_in(scores, yaw - usual[0], pitch - usual[1]))
        self.count += 1
        return self.count - 1


def watch(settings: WatchSettings, glances: Box, recorded: Box, stop: Flag) -> None:
    """Watch until `stop` or until a film is over; the last thing in both queues is `Ended`. What `glances` gets is
    pickled.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's
    threading.Thread(target=_leave_with_parent, args=(stop,), daemon=True).start()
    ended = Ended()
    try:
        ended = _watch(settings, glances, recorded, stop)
    except (CameraError, OSError, RuntimeError, ValueError) as error:
        ended = Ended(str(error))
    glances.put(pickle.dumps(ended))
    recorded.put(ended)


def _watch(settings: WatchSettings, glances: Box, recorded: Box, stop: Flag) -> Ended:
    keeper, number, looked, dropped = Keeper(settings.rate, settings.most), 0, 0, 0
    opened: Any = (MediaPipeDetector(settings.face_model) if settings.detector is None and settings.landmarks is None
                   else nullcontext(_given(settings)))
    # The detector first: it takes seconds to start, and a film would be playing meanwhile.
    with opened as detector, Camera(settings.source, settings.flag) as camera:
        eyes = Remembering(detector)
        reader = FaceReader(eyes)
        while not stop.is_set() and (newest := camera.newest(number)) is not None:
            number, arrived, rgb = newest
            waited, time = perf_counter() - arrived, camera.time_of(number, arrived)
            seen = reader.read(rgb, time)
            kept = None
            if keeper.wants(eyes.faces, rgb.shape, time) and _offered(
                    recorded, Kept(keeper.count, time, rgb, eyes.faces[0])):
                kept = keeper.keep(eyes.faces[0], time)
            coverage = keeper.coverage
            glance = Glance(number, arrived, waited, len(eyes.faces), seen if eyes.faces else None, kept,
                            preview(rgb, eyes.faces), coverage.share, tuple(coverage.missing()[:3]), coverage.table())
            looked += 1
            dropped += not _offered(glances, pickle.dumps(glance))  # by value: queues would share tensors as files
    return Ended("", looked, dropped)


def _given(settings: WatchSettings) -> Detector:
    if settings.detector is not None:
        return settings.detector()
    assert settings.landmarks is not None
    return RecordedDetector(settings.landmarks)


def _offered(outbox: Box, item: object) -> bool:
    """Put an item where there is room at once."""
    try:
        outbox.put_nowait(item)
    except queue.Full:
        return False
    return True


def _leave_with_parent(stop: Flag) -> None:
    """End when the main process is gone, however it ended."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        stop.set()


def preview(rgb: ByteImage, faces: list[Face]) -> ByteImage:
    """A small copy of a picture with the landmarks of its faces; further ones in red."""
    scale = min(1.0, PREVIEW / rgb.shape[0])
    small = np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    ordered = sorted(faces, key=lambda face: -float(face_size(face.points)))
    for place, face in enumerate(ordered):
        for x, y in np.round((face.points[:, :2] * scale - 0.5) * 8).astype(int):
            cv2.circle(small, (int(x), int(y)), 8, DOT_OTHERS if place else DOT, -1, cv2.LINE_AA, 3)
    return small
