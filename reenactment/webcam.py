"""Live driving: the newest picture of a camera, read; whoever drives live, acted and drawn, over and over."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from reenactment.cures import Habit
from reenactment.curves import Curves
from reenactment.face import FaceReader, Seen
from reenactment.film import Painter
from reenactment.motion import HeadMotion, SeenTurns, cameras_of, clip_motion, still, swaying, transferred
from reenactment.performance import Actor
from reenactment.video_driver import joined_codes, joined_motion
from scene.rig import Codes

ByteImage = NDArray[np.uint8]
PATIENCE = 5.0  # seconds without a picture after which a camera counts as gone
KEPT = 100  # pictures over which times are averaged


class CameraError(RuntimeError):
    """A camera that is not there or stopped; the message says what to do."""


class Camera:
    """The newest picture of a camera, in a thread of its own: pictures that come while one is drawn are passed over, so
    that none waits. A context manager. source: number of a camera, or the name of a film, which plays at its own pace.
    flag: the one that named it.

    Raises CameraError when it cannot be opened.
    """

    def __init__(self, source: str, flag: str = "--webcam") -> None:
        # Each way of asking a camera that fails would say so on standard error.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._capture = cv2.VideoCapture()
        with suppress(cv2.error):
            self._capture.open(int(source) if source.isdigit() else source)
        if not self._capture.isOpened():
            raise CameraError(f"{flag} {source}: {_why_not(source)}. Wanted the number of a camera (0 is the first); "
                              "for a recorded film use --video")
        self._flag = flag
        self._pause = 0.0 if source.isdigit() else 1 / (self._capture.get(cv2.CAP_PROP_FPS) or 25.0)
        self._new = threading.Condition()
        self._picture: tuple[int, float, ByteImage] | None = None
        self._ended = self._stopped = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join(timeout=PATIENCE)
        self._capture.release()

    def time_of(self, number: int, arrived: float) -> float:
        """Seconds of a picture: of a film its place there, of a camera the time of arrival."""
        return (number - 1) * self._pause if self._pause else arrived

    def newest(self, after: int) -> tuple[int, float, ByteImage] | None:
        """Number, time of arrival (time.perf_counter) and RGB of the newest picture after number `after`; None when the
        film is over. CameraError when the camera stops.
        """
        with self._new:
            arrived = self._new.wait_for(
                lambda: self._ended or (self._picture is not None and self._picture[0] > after), timeout=PATIENCE)
            if self._picture is not None and self._picture[0] > after:
                return self._picture
        if not arrived or not self._pause:
            raise CameraError(f"{self._flag}: the camera sent no picture for {PATIENCE:.0f} s; is it unplugged, or "
                              "switched off?")
        return None

    def _read(self) -> None:
        number, due = 0, time.perf_counter()
        while not self._stopped:
            found, bgr = self._capture.read()
            if not found:
                break
            rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
            if self._pause:
                due += self._pause
                time.sleep(max(0.0, due - time.perf_counter()))
            number += 1
            with self._new:
                self._picture = (number, time.perf_counter(), rgb)
                self._new.notify_all()
        with self._new:
            self._ended = True
            self._new.notify_all()


def _why_not(source: str) -> str:
    """Why a camera or film does not open."""
    device = Path(f"/dev/video{source}")
    if not source.isdigit():
        return f"{source!r} is neither a camera nor a film, or another program holds it"
    if device.exists() and not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened by you (on Linux the group video may; log in anew after joining it)"
    return f"no camera number {source}, or another program holds it"


@dataclass
class Delays:
    """Where the time goes, seconds of the last pictures: reading the face, acting, drawing, and all of it from the
    picture's arrival to the drawn one.
    """

    read: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    act: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    draw: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    total: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def sentence(self) -> str:
        """Medians in words."""
        def median(values: deque[float]) -> float:
            return 1000 * float(np.median(values)) if values else 0.0

        return (f"{median(self.total):.0f} ms from arrival to picture (face {median(self.read):.0f}, codes "
                f"{median(self.act):.0f}, drawing {median(self.draw):.0f}; {len(self.total)} pictures)")


class Follower:
    """Acts frame after frame what a live driver does. The first `calibrate` seconds tell the driver's habit and where
    its head is at rest.
    """

    def __init__(self, actor: Actor, calibrate: float, moves: bool) -> None:
        """moves: whether the head moves with the driver's."""
        self.actor, self._calibrate, self._moves = actor, calibrate, moves
        own = clip_motion(actor.player.clip, actor.player.head)
        self.own, self._turns = own.average(), SeenTurns(own.at(actor.player.clip.train))
        self._codes: list[Codes] = []
        self._motion: list[HeadMotion] = []
        self._habit: Habit | None = None
        self._place: HeadMotion | None = None
        self._began: float | None = None

    def act(self, seen: Seen, now: float) -> tuple[Codes, HeadMotion]:
        """The avatar's codes [1,...] and its head's motion [1] before its camera, at `now` seconds."""
        self._learn(seen, now)
        acted = self.actor.cured(self.actor.retargeted(Curves.of(seen.codes)), self._habit)
        view = transferred(seen.motion, self.own, self._place) if self._moves else still(self.own, 1)
        if self.actor.cures.project != "none":
            view = self._turns.limited(view)
        return swaying(acted, view, self.actor.player), view

    def _learn(self, seen: Seen, now: float) -> None:
        self._began = now if self._began is None else self._began
        if self._place is not None and now - self._began > self._calibrate:
            return
        self._codes.append(seen.codes)
        self._motion.append(seen.motion)
        self._habit = self.actor.habit(self.actor.retargeted(Curves.of(joined_codes(self._codes))))
        # One pose and one position that mean the same as all of them: averaged once, not in every frame.
        self._place = joined_motion(self._motion).average()


class Mirror:
    """Draws what a live driver does."""

    def __init__(self, follower: Follower, painter: Painter, size: tuple[int, int]) -> None:
        """size: width and height of the pictures."""
        self._follower, self._painter, self._size = follower, painter, size

    def picture(self, seen: Seen, now: float) -> tuple[ByteImage, float]:
        """The avatar doing the same [H,W,3], and the seconds that it took before drawing began."""
        started = time.perf_counter()
        player = self._follower.actor.player
        acted, view = self._follower.act(seen, now)
        cameras = cameras_of(view, player.clip, player.head, *self._size)
        before = time.perf_counter() - started
        return self._painter.paint(acted, cameras)[0], before


Faces = Iterator[tuple[float, float, Seen]]  # time of arrival, seconds that reading took, the face


def faces_of(camera: Camera, reader: FaceReader) -> Faces:
    """The face in the newest picture of a camera, over and over, until a film is over."""
    number = 0
    while (newest := camera.newest(number)) is not None:
        number, arrived, rgb = newest
        started = time.perf_counter()
        seen = reader.read(rgb, arrived)
        if seen is not None:
            yield arrived, time.perf_counter() - started, seen


def live(faces: Faces, mirror: Mirror, delays: Delays,
         show: Callable[[ByteImage], None]) -> Iterator[tuple[float, ByteImage]]:
    """Show and yield (time of arrival, picture) of every face, as soon as it comes."""
    for arrived, read, seen in faces:
        started = time.perf_counter()
        picture, before = mirror.picture(seen, arrived)
        show(picture)
        shown = time.perf_counter()
        for values, seconds in ((delays.read, read), (delays.act, before),
                                (delays.draw, shown - started - before), (delays.total, shown - arrived)):
            values.append(seconds)
        yield arrived, picture
