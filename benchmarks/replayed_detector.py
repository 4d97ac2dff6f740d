"""track.py on machines without MediaPipe: python -m benchmarks.replayed_detector FILE SECONDS ARGUMENTS

FILE: what `python -m benchmarks.video_to_avatar --record FILE` found elsewhere. SECONDS: "recorded", or the CPU seconds
that a detection takes instead. ARGUMENTS: those of track.py. See `benchmarks.video_to_avatar`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tracking.detection import in_pieces
from tracking.detector import Face, MediaPipeDetector, arrays_of_faces, faces_of_arrays
from tracking.footage import ByteImage, Picture, Span, Wanted
from tracking.video import open_footage
from utils.arrays import read_npz, write_npz

TIMED = 60            # pictures of which the detector's time is measured
HASHED = bytes(1 << 28)  # as much of it as a time takes, in one call without Python's lock, as MediaPipe's are
LEAST = 1 << 12  # bytes; fewer keep that lock


def record(video: Path, model: Path | None, path: Path) -> None:
    """What MediaPipe finds in a video, picture by picture and in pieces as track.py has it, and how long it takes."""
    begin = time.process_time()
    with MediaPipeDetector(model) as detector:
        import_seconds = time.process_time() - begin
        begin = time.process_time()
        with detector.another():
            opening = time.process_time() - begin
        pictures = list(open_footage(video).pictures(Span()))
        begin, wall = time.process_time(), time.thread_time()
        for picture in pictures[:TIMED]:
            detector.detect(picture.rgb, picture.time)
        count = min(TIMED, len(pictures))
        # what this thread did itself, it did under Python's lock: the native code has threads of its own
        seconds, locked = (time.process_time() - begin) / count, (time.thread_time() - wall) / count
        seen = list(in_pieces(pictures, detector.another, lambda: None))
    faces = [face for one in seen for face in one.faces]
    write_npz(path, {
        "time": np.array([one.picture.time for one in seen]), "count": np.array([len(one.faces) for one in seen]),
        **arrays_of_faces(faces),
        "seconds": np.array([seconds, locked, opening, import_seconds]),
    })
    print(f"{path}: {len(seen)} pictures, {len(faces)} faces; CPU seconds a picture {seconds:.4f}, of which under "
          f"Python's lock {locked:.4f}; a detector {opening:.3f}, the first {import_seconds:.2f}")


class Replayed:
    """A `CloseDetector` that finds what was recorded and takes its time."""

    def __init__(self, path: Path, picture_seconds: float | None, first: bool = True) -> None:
        self.path, self.picture_seconds = path, picture_seconds
        saved = read_npz(path)
        self.time, self._first = saved["time"], np.concatenate([[0], np.cumsum(saved["count"])])
        self._faces = faces_of_arrays(saved)
        self.seconds, self.locked, opening, import_seconds = saved["seconds"].tolist()
        if picture_seconds is not None:
            self.seconds, self.locked = picture_seconds, picture_seconds * self.locked / self.seconds
        busy(import_seconds if first else opening, import_seconds if first else 0.0)

    def another(self) -> Replayed:
        return Replayed(self.path, self.picture_seconds, first=False)

    def __enter__(self) -> Replayed:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def detect(self, rgb: ByteImage, time: float) -> list[Face]:
        busy(self.seconds, self.locked)
        index = int(np.abs(self.time - time).argmin())
        return self._faces[self._first[index]:self._first[index + 1]]

    def detect_alone(self, rgb: ByteImage) -> list[Face]:
        busy(self.seconds, self.locked)
        return []


def busy(seconds: float, locked: float) -> None:
    """Use a core for so many CPU seconds, `locked` of them under Python's lock."""
    begin = time.thread_time()
    while time.thread_time() - begin < locked:
        pass
    while (left := seconds - (time.thread_time() - begin)) > 0:
        hashlib.sha256(memoryview(HASHED)[:int(left * hashed_a_second()) + LEAST])


@cache
def hashed_a_second() -> float:
    """Bytes, of one core."""
    begin = time.thread_time()
    hashlib.sha256(memoryview(HASHED)[:1 << 22])
    return (1 << 22) / (time.thread_time() - begin)


class ReadByOpenCV:
    """A video read without PyAV; a `Footage`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self.expected: int | None = int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))

    def pictures(self, wanted: Wanted) -> Iterator[Picture]:
        video, index = cv2.VideoCapture(str(self.path)), 0
        rate = video.get(cv2.CAP_PROP_FPS)
        while not wanted.is_past(index / rate):
            there, image = video.read()
            if not there:
                return
            if wanted.accepts(index, index / rate):
                yield Picture(index, index / rate, np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8))
            index += 1


@contextlib.contextmanager
def written_by_opencv(path: Path, fps: float = 25.0, **settings: Any) -> Iterator[Callable[[ByteImage], None]]:
    """Instead of `utils.video.write_video`."""
    writer: list[cv2.VideoWriter] = []

    def add(image: ByteImage) -> None:
        if not writer:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            writer.append(cv2.VideoWriter(str(path), code, fps, (image.shape[1], image.shape[0])))
        writer[0].write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    yield add
    for opened in writer:
        opened.release()


def without_pyav() -> bool:
    return importlib.util.find_spec("av") is None


if without_pyav():  # here, not in main: the process that writes the preview imports this module, too
    _module: Any = types.ModuleType("utils.video")
    _module.write_video = written_by_opencv
    sys.modules["utils.video"] = _module


def main() -> None:
    file, seconds, *arguments = sys.argv[1:]
    import track
    from tracking import look

    patched: Any = look
    patched.MediaPipeDetector = lambda model: Replayed(Path(file), None if seconds == "recorded" else float(seconds))
    if without_pyav():
        patched.open_footage = lambda path, fps: ReadByOpenCV(path)
    sys.argv = ["track.py", *arguments]
    track.main()


if __name__ == "__main__":
    main()
