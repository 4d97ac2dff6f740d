"""Pictures and videos for keeping: what the window shows, as PNG; the timeline as MP4."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from gaussian_renderer import Cameras
from utils.images import encode_image
from utils.video import write_video
from viewer.picture import Painter
from viewer.state import ViewState

MOST_SIDE = 4096  # pixels


def screenshot(painter: Painter, state: ViewState, camera: Cameras) -> bytes:
    """The picture of a state as PNG."""
    return encode_image(painter.paint(state, _bounded(camera)), ".png")


def film(painter: Painter, states: Iterator[ViewState], camera: Cameras, fps: float,
         shown: Callable[[int], bool]) -> bytes | None:
    """An MP4 of states, one a frame. `shown` hears how many are done and returns whether to go on; None if not.

    Raises utils.video.VideoUnavailable without an H.264 encoder.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        try:
            with write_video(path, fps) as add:
                for done, state in enumerate(states, start=1):
                    add(painter.paint(state, _bounded(camera)))
                    if not shown(done):
                        raise _Stopped
        except _Stopped:
            return None
        return path.read_bytes()


def timeline(state: ViewState, frames: Iterable[int]) -> Iterator[ViewState]:
    """The states of these frames of the clip, everything else as it is."""
    return (replace(state, base="clip", frame=frame) for frame in frames)


class _Stopped(Exception):
    pass


def _bounded(camera: Cameras) -> Cameras:
    """The camera at a size that a client may ask for: windows report any number."""
    if not (1 <= camera.width <= MOST_SIDE and 1 <= camera.height <= MOST_SIDE):
        raise ValueError(f"capture: wanted 1 to {MOST_SIDE} pixels a side, got {camera.width} x {camera.height}")
    return camera
