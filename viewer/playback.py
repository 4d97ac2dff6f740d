"""The clock of the timeline: which frame is due, whatever the speed of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from scene.recording import Recording


class Playback:
    """Counts frames of a clip in real time; a slow machine skips frames instead of slowing down.

    frames: length of the clip. fps: frames a second. clock: seconds, monotonic.
    """

    def __init__(self, frames: int, fps: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.frames = frames
        self.loop = True
        self._fps = fps
        self._clock = clock
        self._since: float | None = None
        self._first = 0

    @property
    def playing(self) -> bool:
        return self._since is not None

    @property
    def fps(self) -> float:
        return self._fps

    def set_fps(self, fps: float) -> None:
        """Change the speed from here on. ValueError unless 0 < fps <= 240."""
        if not 0 < fps <= 240:
            raise ValueError(f"speed: wanted more than 0 and at most 240 frames a second, got {fps}")
        if self.playing:
            self.start(self.frame()[0])
        self._fps = fps

    def start(self, frame: int) -> None:
        """Play from `frame` on; from the beginning when that is the last one."""
        self._first = 0 if frame >= self.frames - 1 else frame
        self._since = self._clock()

    def stop(self) -> None:
        self._since = None

    def frame(self) -> tuple[int, bool]:
        """The frame that is due while playing, and whether the clip has ended there (never in a loop)."""
        if self._since is None:
            raise RuntimeError("frame: the clip is not playing")
        position = self._first + int((self._clock() - self._since) * self._fps)
        if self.loop:
            return position % self.frames, False
        return min(position, self.frames - 1), position >= self.frames - 1


class Timeline(Playback):
    """Plays the frames of one camera of a recording; frames are numbered as in the recording.

    frame: one of that camera's. `frames` is the length; a place on the timeline counts from 0.
    """

    def __init__(self, recording: Recording, frame: int, fps: float,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.recording, self.camera = recording, int(recording.view[frame])
        self.numbers = recording.of_camera(self.camera)
        super().__init__(len(self.numbers), fps, clock)

    def place(self, frame: int) -> int:
        """Where a frame of the camera is."""
        return int(np.searchsorted(self.numbers, frame))

    def at(self, place: int) -> int:
        """The frame at a place, or at the nearest that there is."""
        return int(self.numbers[min(max(place, 0), self.frames - 1)])

    def choose(self, name: str, frame: int) -> int:
        """Go over to another camera, not playing; the frame nearest in time to `frame`. ValueError for no such name."""
        if name not in self.recording.cameras:
            raise ValueError(f"camera: wanted one of {', '.join(self.recording.cameras)}, got {name!r}")
        self.camera = self.recording.cameras.index(name)
        self.numbers = self.recording.of_camera(self.camera)
        self.frames = len(self.numbers)
        return self.at(int(np.abs(self.recording.time[self.numbers] - self.recording.time[frame]).argmin()))

    def start(self, frame: int) -> None:
        """Play from `frame` on; from the beginning when that is the last one."""
        super().start(self.place(frame))

    def frame(self) -> tuple[int, bool]:
        """As `Playback.frame`, by its number."""
        place, ended = super().frame()
        return self.at(place), ended
