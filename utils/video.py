"""H.264 video, written frame by frame, that every browser and player opens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from utils.atomic import replacing

BT709, LIMITED_RANGE = 1, 1  # FFmpeg's numbers; without these tags players guess the colours by picture size

AddFrame = Callable[[NDArray[np.uint8]], None]


class VideoUnavailable(RuntimeError):
    """The installed FFmpeg has no H.264 encoder; the message says so."""


@contextmanager
def write_video(
    path: str | Path, fps: float = 25.0, crf: int = 18, preset: str = "medium"
) -> Iterator[AddFrame]:
    """Open an MP4 for writing; the block receives a function that appends one frame, uint8 RGB [H,W,3].

    Frames go to the encoder at once, so memory does not grow with length. All must have the first one's size; an odd
    width or height is made even by repeating the last column or row (4:2:0 chroma needs it). The index is written at
    the front, so that a browser starts playing before it has the whole file. The file appears only when the block ends
    well and holds at least one frame.

    Args:
        path: ends in .mp4.
        fps: any positive rate; kept to 1/1000 of a frame a second.
        crf: x264's quality, 0 (lossless) to 51; 18 is visually clean.
        preset: x264's name for how long it searches for savings: ultrafast to placebo.

    Raises:
        ValueError: a rate that is not positive, no frame at all, or a frame of wrong dtype, shape or size.
        VideoUnavailable: no H.264 encoder.
        utils.atomic.WriteError: the disk refused.
    """
    if not fps > 0:
        raise ValueError(f"fps: expected a positive number, got {fps}")
    if "libx264" not in av.codecs_available:
        raise VideoUnavailable(f"{path}: the installed PyAV {av.__version__} has no libx264 encoder")
    with replacing(path) as temporary, av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
        encoder = _Encoder(container, Fraction(fps).limit_denominator(1000), crf, preset)
        yield encoder.add
        encoder.finish(path)


class _Encoder:
    def __init__(self, container: av.container.OutputContainer, rate: Fraction, crf: int, preset: str) -> None:
        self.container = container
        self.rate = rate
        self.crf, self.preset = crf, preset
        self.size: tuple[int, ...] | None = None

    def add(self, image: NDArray[np.uint8]) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"video frame: expected uint8 [H,W,3], got {image.dtype} {list(image.shape)}")
        if self.size is None:
            self._open(image.shape)
        if image.shape != self.size:
            raise ValueError(f"video frame: expected {list(self.size or ())} like the first, got {list(image.shape)}")
        odd = [side % 2 for side in image.shape[:2]]
        even = np.pad(image, [(0, odd[0]), (0, odd[1]), (0, 0)], mode="edge") if any(odd) else image
        rgb = VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        for packet in self.stream.encode(frame):
            self.container.mux(packet)

    def finish(self, path: str | Path) -> None:
        if self.size is None:
            raise ValueError(f"{path}: a video needs at least one frame, got none")
        for packet in self.stream.encode():
            self.container.mux(packet)

    def _open(self, shape: tuple[int, ...]) -> None:
        self.size = shape
        self.stream = self.container.add_stream("libx264", rate=self.rate)
        self.stream.height, self.stream.width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
        self.stream.pix_fmt = "yuv420p"
        self.stream.options = {"crf": str(self.crf), "preset": self.preset}
        context = self.stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
