"""Reading a video: any that PyAV's FFmpeg decodes.

Pictures come upright (turns and mirrorings that the file notes are obeyed) and with square pixels; times come from the
time stamps, so a variable frame rate is what it is. An alpha channel is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from tracking.footage import PHOTO, ByteImage, FootageError, Picture, Wanted

USUAL_FPS = 25.0  # of a video that does not say
HDR_TRANSFERS = {16, 18}  # FFmpeg's numbers of PQ (SMPTE 2084) and HLG (ARIB STD-B67)
COLORSPACE_UNKNOWN = 2
HD_HEIGHT = 720  # untagged video is BT.709 from here on and BT.601 below, as players take it
# WebM keeps alpha as a second VP8 or VP9 stream, which FFmpeg's own decoders pass over and libvpx's decode.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
CUT_SHORT = 0.5  # seconds: containers state their length more loosely than that only when something is missing


class VideoFile:
    """A video, decoded from its start each time; see `tracking.footage.Footage`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.expected: int | None = None
        with self._opened() as container:
            stream = _video_stream(container, path)
            self.duration = _duration(container, stream)
            self.rate = float(stream.average_rate or stream.guessed_rate or USUAL_FPS)
            self.expected = stream.frames or (round(self.duration * self.rate) if self.duration else None)

    def pictures(self, wanted: Wanted) -> Iterator[Picture]:
        notes: list[str] = []
        index, first, time = 0, None, 0.0
        with self._opened() as container:
            stream = _video_stream(container, self.path)
            stream.thread_type = "AUTO"
            for frame in _decoded(container, stream, notes):
                stamp = frame.time if frame.time is not None else index / self.rate
                first = stamp if first is None else first
                time = stamp - first
                if wanted.is_past(time):
                    break
                if wanted.accepts(index, time):
                    yield Picture(index, time, *_pixels(frame, stream.sample_aspect_ratio, notes))
                index += 1
            else:
                self._check_end(index, time, notes)
        self.notes = list(dict.fromkeys(notes))  # the same remark about every frame is one remark

    def _opened(self) -> av.container.InputContainer:
        try:
            return av.open(str(self.path), metadata_errors="replace")  # titles may be no UTF-8
        except av.error.FFmpegError as error:
            raise FootageError(
                f"{self.path}: neither video nor image could be read from it ({error.strerror}); it is damaged, cut "
                "short while it was copied or recorded, or no video at all. Copy it again, or convert it to MP4"
            ) from error

    def _check_end(self, count: int, time: float, notes: list[str]) -> None:
        if count == 0:
            raise FootageError(f"{self.path}: not one picture could be decoded; the file is damaged or cut short. "
                               "Copy it again, or convert it to MP4")
        read = time + 1 / self.rate
        if self.duration is not None and read < self.duration - CUT_SHORT:
            notes.append(f"{self.path.name} is cut short: it says that it lasts {self.duration:.1f} s, but only the "
                         f"first {read:.1f} s could be read")


def _video_stream(container: av.container.InputContainer, path: Path) -> av.video.stream.VideoStream:
    kind = container.format.name
    if kind == "image2" or kind.endswith("_pipe"):
        raise FootageError(PHOTO.format(path=path))
    # The cover picture of a music file is a video stream to FFmpeg.
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if streams:
        if getattr(streams[0], "codec_context", None) is None:  # PyAV's types do not say that it may be missing
            raise FootageError(f"{path}: the installed FFmpeg knows no decoder of its pictures; convert it to an MP4 "
                               "with H.264")
        return streams[0]
    if container.streams.audio:
        raise FootageError(f"{path}: an audio file ({container.format.long_name}) without moving pictures; a video of "
                           "the face is expected")
    raise FootageError(f"{path}: no video stream in it ({container.format.long_name}); a video is expected")


def _duration(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _decoder(stream: av.video.stream.VideoStream, notes: list[str]) -> VideoCodecContext:
    """The stream's own decoder, or the one that also decodes the alpha of a WebM; a note where there is none."""
    if stream.metadata.get("alpha_mode") != "1":
        return stream.codec_context
    name = ALPHA_DECODERS.get(stream.codec_context.name)
    if name is None or name not in av.codecs_available:
        notes.append(f"the video's alpha channel ({stream.codec_context.name} in WebM) cannot be decoded here and was "
                     "passed over; convert it to ProRes 4444 or to a folder of PNG files to keep it")
        return stream.codec_context
    decoder = av.codec.CodecContext.create(name, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata = stream.codec_context.extradata
    return decoder


def _decoded(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, notes: list[str]
) -> Iterator[VideoFrame]:
    """The frames that can be decoded; what cannot is noted and passed over."""
    damaged = 0
    decoder = _decoder(stream, notes)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames = decoder.decode(packet) if packet is not None else []
        except av.error.FFmpegError:
            damaged += 1
            frames = []
            if damaged > 1000:  # a broken container repeats its error for ever
                break
            continue
        if packet is None:
            break
        yield from (frame for frame in frames if isinstance(frame, VideoFrame) and not frame.is_corrupt)
    if damaged:
        notes.append(f"damaged places in the video ({damaged}) were passed over")


def _pixels(frame: VideoFrame, aspect: Fraction | None, notes: list[str]) -> tuple[ByteImage, ByteImage | None]:
    """Upright RGB with square pixels, and alpha where the frame has any."""
    if int(frame.color_trc) in HDR_TRANSFERS:
        notes.append("the video is HDR; its colours are taken as they are and look pale. Convert it to SDR for true "
                     "colours")
    has_alpha = any(component.is_alpha for component in frame.format.components)
    source = None
    if int(frame.colorspace) == COLORSPACE_UNKNOWN and not frame.format.is_rgb:
        source = "ITU709" if frame.height >= HD_HEIGHT else "ITU601"
    image: ByteImage = np.asarray(
        frame.to_ndarray(format="rgba" if has_alpha else "rgb24", src_colorspace=source), np.uint8)
    if aspect and abs(aspect - 1) > 0.01:  # pixels that are not square: widen or narrow the picture
        image = np.asarray(cv2.resize(image, (round(frame.width * float(aspect)), frame.height)), np.uint8)
    image = np.ascontiguousarray(_upright(image, frame))
    return np.ascontiguousarray(image[:, :, :3]), np.ascontiguousarray(image[:, :, 3]) if has_alpha else None


def _upright(image: ByteImage, frame: VideoFrame) -> ByteImage:
    """The picture turned by quarters and mirrored as the frame's display matrix says, which some cameras write."""
    stored = frame.side_data.get(Type.DISPLAYMATRIX.name)
    if stored is None:
        return image
    # Its upper left part says where a step to the right and a step down lead on the display: (a, b) and (c, d).
    matrix: NDArray[np.int64] = np.frombuffer(memoryview(cast(bytes, stored)), np.int32).astype(np.int64)
    a, b, c, d = matrix[[0, 1, 3, 4]]
    right, down = a, d
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, right, down = image.swapaxes(0, 1), c, b
    return image[::-1 if down < 0 else 1, ::-1 if right < 0 else 1]
