"""The clock of the timeline: which frame is due, whatever the speed of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable


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
