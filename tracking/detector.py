"""The face landmark detector: MediaPipe's FaceLandmarker, and what it says about one picture."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

import numpy as np

from tracking.footage import ByteImage
from tracking.model_files import ModelFile, model_path
from tracking.records import BLENDSHAPE_NAMES, LANDMARKS, Floats

FACE_MODEL = ModelFile(
    name="face_landmarker.task", folder="mediapipe", flag="--face_model",
    url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
    sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
)
INSTALL = "pip install --no-deps -r requirements-tracking.txt"
GRAPHICS = ("install them with `apt install libegl1 libgles2` (Fedora: `dnf install libglvnd-egl libglvnd-gles`, "
            "conda: `conda install -c conda-forge libegl libgles`)")
# More than one, so that two people are noticed; and MediaPipe smooths over time, with a lag, only when asked for one.
MAX_FACES = 4


class DetectorUnavailable(RuntimeError):
    """The detector cannot run on this machine; the message says what to install or where to get its model."""


@dataclass(frozen=True, eq=False)
class Face:
    """One face in one picture, float32. points [478,3]: x, y in pixels of the picture (pixel i's centre at i + 0.5)
    and MediaPipe's relative z on the same scale. blendshapes [52]. pose [4,4]: see `Observations.pose`.
    """

    points: Floats
    blendshapes: Floats
    pose: Floats


def arrays_of_faces(faces: list[Face]) -> dict[str, Floats]:
    """One or more faces as arrays, to be kept in a file: points [n,478,3], blendshapes [n,52], pose [n,4,4]."""
    return {field.name: np.stack([getattr(face, field.name) for face in faces]) for field in fields(Face)}


def faces_of_arrays(arrays: Mapping[str, Floats]) -> list[Face]:
    """The inverse of `arrays_of_faces`; KeyError for an array that is missing, ValueError for unequal lengths."""
    return [Face(*of_one) for of_one in zip(*(arrays[field.name] for field in fields(Face)), strict=True)]


class Detector(Protocol):
    """Finds faces in the pictures of a clip, which are given in order."""

    def detect(self, rgb: ByteImage, time: float) -> list[Face]:
        """All faces in a picture uint8 [H,W,3] at `time` seconds (later than the one before)."""


class CloseDetector(Detector, Protocol):
    """One that also looks at parts of pictures."""

    def detect_alone(self, rgb: ByteImage) -> list[Face]:
        """All faces in a picture uint8 [H,W,3] of any size, whatever came before; `detect` takes no notice of it."""


class MediaPipeDetector:
    """MediaPipe's FaceLandmarker as a `CloseDetector`; a context manager.

    model: the user's file, or None for the one in data/mediapipe, which is downloaded when it is missing.

    Raises:
        DetectorUnavailable: the mediapipe package, a library that it needs or the model file cannot be had.
        FileNotFoundError: `model` does not exist.
        ValueError: the file is no FaceLandmarker model.
    """

    def __init__(self, model: Path | None = None) -> None:
        mediapipe = _import_mediapipe()
        path = model_path(FACE_MODEL, model)
        self._mediapipe = mediapipe
        self._path = path
        self._time = -1
        self._alone: Any = None
        try:
            self._landmarker = self._opened(mediapipe.tasks.vision.RunningMode.VIDEO)
        except OSError as error:  # MediaPipe loads its native library now
            raise DetectorUnavailable(
                f"the face landmark detector cannot start: {error}. It needs the system's OpenGL ES and EGL libraries, "
                f"with or without a GPU or screen; {GRAPHICS}") from error
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise ValueError(
                f"{path}: a FaceLandmarker model (.task) is expected, MediaPipe refused it: {reason}") from error

    def another(self) -> MediaPipeDetector:
        """One with the same model that has seen nothing yet, for another thread; raises as the constructor does."""
        return MediaPipeDetector(self._path)

    def _opened(self, mode: Any) -> Any:
        vision = self._mediapipe.tasks.vision
        options = vision.FaceLandmarkerOptions(
            base_options=self._mediapipe.tasks.BaseOptions(model_asset_path=str(self._path)),
            running_mode=mode, num_faces=MAX_FACES,
            output_face_blendshapes=True, output_facial_transformation_matrixes=True,
        )
        with _silence:
            return vision.FaceLandmarker.create_from_options(options)

    def __enter__(self) -> MediaPipeDetector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._landmarker.close()
        if self._alone is not None:
            self._alone.close()

    def detect(self, rgb: ByteImage, time: float) -> list[Face]:
        # MediaPipe wants whole milliseconds that rise strictly, also above 1000 pictures a second.
        self._time = max(self._time + 1, round(time * 1000))
        with _silence:
            result = self._landmarker.detect_for_video(self._image(rgb), self._time)
        return self._faces(result, rgb)

    def detect_alone(self, rgb: ByteImage) -> list[Face]:
        if self._alone is None:
            self._alone = self._opened(self._mediapipe.tasks.vision.RunningMode.IMAGE)
        with _silence:
            result = self._alone.detect(self._image(rgb))
        return self._faces(result, rgb)

    def _image(self, rgb: ByteImage) -> Any:
        return self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))

    @staticmethod
    def _faces(result: Any, rgb: ByteImage) -> list[Face]:
        return [_face(*parts, rgb.shape[1], rgb.shape[0]) for parts in zip(
            result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True)]


def _face(landmarks: list[Any], scores: list[Any], pose: Any, width: int, height: int) -> Face:
    points = np.array([(p.x * width, p.y * height, p.z * width) for p in landmarks], np.float32)
    by_name = {score.category_name: score.score for score in scores}
    blendshapes = np.array([by_name[name] for name in BLENDSHAPE_NAMES], np.float32)
    if points.shape != (LANDMARKS, 3):
        raise ValueError(f"the face model gives {len(points)} landmarks, {LANDMARKS} (with irises) are needed")
    return Face(points, blendshapes, np.asarray(pose, np.float32))


def _import_mediapipe() -> Any:
    try:
        import mediapipe
        import mediapipe.tasks.python.vision
    except ImportError as error:
        raise DetectorUnavailable(
            f"the face landmark detector is not installed ({error}); install it with `{INSTALL}`. It has wheels for "
            "Python 3.10 to 3.13 on Linux (x86-64, glibc 2.28 or newer), macOS (ARM) and Windows"
        ) from error
    return mediapipe


class _Silence:
    """MediaPipe's native code writes to standard error, past Python, where the progress bars are. A context manager for
    any number of threads: while one of them is inside, nothing that is written there is seen.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._saved = threading.Lock(), 0, -1

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            sys.stderr.flush()
            self._saved = os.dup(2)
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                os.dup2(self._saved, 2)
                os.close(self._saved)


_silence = _Silence()


@contextlib.contextmanager
def heard_stderr() -> Iterator[TextIO]:
    """Standard error as it was, for words that must be seen while detectors work."""
    try:
        number = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # not a file: nothing silences it
        yield sys.stderr
        return
    with open(number, "w", encoding=sys.stderr.encoding) as file:
        yield file
