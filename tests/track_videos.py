"""Footage for tests of tracking, made on the spot: painted faces, written by PyAV, found by a detector that knows them.

A painted face is a disc of one of two colours that nothing else has; `PaintedFaceDetector` finds it as MediaPipe finds
a face, with the landmarks of the open head at rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame

from flame.load import OPEN_HEAD
from tracking.detector import Face
from tracking.footage import ByteImage
from tracking.records import BLENDSHAPE_NAMES

FACE_MODEL = Path(__file__).resolve().parents[2] / "shared" / "data" / "mediapipe" / "face_landmarker.task"
CLIPS = FACE_MODEL.parents[1] / "clips"
SKIN, OTHER_SKIN = (230, 60, 60), (60, 60, 230)
WIDTH, HEIGHT = 160, 120


def picture(
    faces: Sequence[tuple[float, float, float]] = ((80, 60, 30),), background: int = 90, width: int = WIDTH,
    height: int = HEIGHT, seed: int = 0,
) -> ByteImage:
    """Uint8 RGB with a disc (x, y, radius) for each face; the second and later ones in the other colour.

    The noise of `seed` keeps pictures from repeating one another.
    """
    noise = np.random.default_rng(seed).integers(-6, 7, (height, width, 1))
    image = np.clip(np.full((height, width, 3), background) + noise, 0, 255).astype(np.uint8)
    for number, (x, y, radius) in enumerate(faces):
        cv2.circle(image, (round(x), round(y)), round(radius), OTHER_SKIN if number else SKIN, -1)
    return image


def moving_face(count: int, **options: int) -> list[ByteImage]:
    """A face that sways a little."""
    return [picture(((80 + 4 * np.sin(i / 3), 60, 30),), seed=i, **options) for i in range(count)]


@cache
def landmarks_at_rest() -> np.ndarray:
    """[478,3] of the open head. Read once, by the first detector: several threads must not read NumPy's files at the
    same time (see `tracking.workspace.PictureStore`).
    """
    with np.load(OPEN_HEAD) as head:
        return (head["v_template"][head["mp478_vertices"]] * head["mp478_bary"][..., None]).sum(axis=1)


class PaintedFaceDetector:
    """Finds painted faces; see the module. jaw: what the scores say of the open mouth."""

    def __init__(self) -> None:
        self.calls = 0
        points = landmarks_at_rest()
        # Face sizes from its middle; x to the right, y down, smaller z nearer.
        points = (points - (points.max(axis=0) + points.min(axis=0)) / 2) * (1, -1, -1)
        self.template = (points / np.linalg.norm(points[10] - points[152])).astype(np.float32)

    def detect(self, rgb: ByteImage, time: float) -> list[Face]:
        self.calls += 1
        faces = []
        for colour in (SKIN, OTHER_SKIN):
            near = (np.abs(rgb.astype(int) - colour).max(axis=2) < 60).astype(np.uint8)
            count, _, stats, centres = cv2.connectedComponentsWithStats(near)
            for i in range(1, count):
                if stats[i, cv2.CC_STAT_AREA] > 60:
                    faces.append(self._face(centres[i], float(stats[i, cv2.CC_STAT_HEIGHT]), time))
        return faces

    def detect_alone(self, rgb: ByteImage) -> list[Face]:
        return self.detect(rgb, 0.0)

    def _face(self, centre: np.ndarray, height: float, time: float) -> Face:
        points = self.template * height + (*centre, 0)
        scores = np.full(len(BLENDSHAPE_NAMES), 0.05, np.float32)
        scores[BLENDSHAPE_NAMES.index("jawOpen")] = 0.3 + 0.3 * np.sin(9 * time)
        return Face(points.astype(np.float32), scores, np.eye(4, dtype=np.float32))


def write_clip(
    path: Path, pictures: Sequence[ByteImage], fps: int = 25, times: Sequence[float] | None = None, rotation: int = 0,
    codec: str = "libx264", options: dict[str, str] | None = None, aspect: Fraction | None = None,
    pixels: str | None = None,
) -> Path:
    """A video file. times: seconds of each picture, else even. rotation: degrees counter-clockwise for players.
    pixels: FFmpeg's name of the pixel format; RGBA pictures need one with alpha.

    options: of the container. Colours survive well enough for the detector: nearly lossless, full chroma.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels or ("yuv444p" if codec == "libx264" else "yuv420p")
        stream.codec_context.time_base = Fraction(1, 1000)
        if codec == "libx264":
            stream.options = {"crf": "6", "preset": "ultrafast"}
        elif codec == "libvpx":
            stream.options = {"auto-alt-ref": "0"}  # as this encoder wants it for pictures with alpha
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            stream.sample_aspect_ratio = aspect
        for index, image in enumerate(pictures):
            kind = "rgb24" if image.shape[2] == 3 else "rgba"
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format=kind)
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * (times[index] if times is not None else index / fps))
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_audio(path: Path) -> Path:
    """Half a second of a tone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac" if path.suffix == ".m4a" else "pcm_s16le", rate=16000)
        stream.layout = "mono"
        tone = (8000 * np.sin(np.arange(8000) / 10)).astype(np.int16)[None]
        samples = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        samples.rate, samples.pts = 16000, 0
        for packet in [*stream.encode(samples), *stream.encode()]:
            container.mux(packet)
    return path
