"""What the stages of tracking hand to one another: what was seen in a clip, and the head fitted to it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from utils.arrays import read_npz, write_npz

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

LANDMARKS = 478  # MediaPipe's face mesh (468) and two irises of 5 points

# The order of MediaPipe's blendshape model, names as in ARKit; tests/test_track_landmarks.py asks the detector.
BLENDSHAPE_NAMES = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Observations:
    """What was seen in the T kept frames of one shot. float32 unless said; pixels of the square crop.

    landmarks [T,478,2]: MediaPipe face landmarks; pixel i's centre lies at i + 0.5. depth [T,478]: MediaPipe's
    relative z (smaller is nearer, the head's centre is about 0), scaled to pixels of the crop. blendshapes [T,52]:
    scores in 0 .. 1, in the order of BLENDSHAPE_NAMES. pose [T,4,4]: MediaPipe's facial transformation matrix as it
    came (its canonical face, centimetres, to its camera, which looks along -z with y up). size: the crop is size x
    size pixels. source_index int64 [T]: frame number in the video, ascending; neighbours may be further than 1 apart.
    focal, principal: of a lens that is known, pixels of the crop; None: not known, and the crop's middle.

    Raises ValueError naming the array whose shape does not fit.
    """

    landmarks: Floats
    depth: Floats
    blendshapes: Floats
    pose: Floats
    size: int
    source_index: Indices
    focal: float | None = None
    principal: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        frames = len(self.source_index)
        _check(self, landmarks=(frames, LANDMARKS, 2), depth=(frames, LANDMARKS),
               blendshapes=(frames, len(BLENDSHAPE_NAMES)), pose=(frames, 4, 4), source_index=(frames,))
        if self.size <= 0:
            raise ValueError(f"size: a positive number of pixels expected, got {self.size}")

    def __len__(self) -> int:
        return len(self.source_index)

    @property
    def center(self) -> Floats:
        """Principal point [2], pixels of the crop."""
        return np.array(self.principal or (self.size / 2, self.size / 2), np.float32)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """[T]: whether the picture shows the face at all."""
        return np.asarray(np.isfinite(self.landmarks).any(axis=(1, 2)))


@dataclass(frozen=True, eq=False)
class Fit:
    """A head fitted to T frames, in the trackers' convention: the head stands still, the camera moves. float32.

    shape [S]: one identity. expression [T,E]; jaw [T,6], eyes [T,12] (left, right): 6D rotations; eyelids [T,2].
    R [T,3,3], t [T,3]: world to camera, metres, x right, y down, z forward. K [3,3]: pixels of the crop, one for the
    clip. landmark_error [T]: RMS distance in pixels of the crop between observed and projected landmarks.

    Raises ValueError naming the array whose shape does not fit.
    """

    shape: Floats
    expression: Floats
    jaw: Floats
    eyes: Floats
    eyelids: Floats
    R: Floats
    t: Floats
    K: Floats
    landmark_error: Floats

    def __post_init__(self) -> None:
        frames = len(self.landmark_error)
        _check(self, shape=(self.shape.size,), expression=(frames, self.expression.shape[-1]), jaw=(frames, 6),
               eyes=(frames, 12), eyelids=(frames, 2), R=(frames, 3, 3), t=(frames, 3), K=(3, 3),
               landmark_error=(frames,))

    def __len__(self) -> int:
        return len(self.landmark_error)

    def seen_by(self, rig: Rig, camera: int) -> Fit:
        """The same head before a camera of a rig; landmark errors stay those of all cameras."""
        R, t = rig.R[camera], rig.t[camera]
        return replace(self, R=(R @ self.R).astype(np.float32), t=(self.t @ R.T + t).astype(np.float32),
                       K=rig.K[camera])


@dataclass(frozen=True, eq=False)
class Rig:
    """C cameras that stand still to one another, float32. K [C,3,3]: pixels of the crop of each; R [C,3,3], t [C,3]:
    from camera 0 to camera c, metres. Raises ValueError naming the array whose shape does not fit.
    """

    K: Floats
    R: Floats
    t: Floats

    def __post_init__(self) -> None:
        _check(self, K=(len(self.K), 3, 3), R=(len(self.K), 3, 3), t=(len(self.K), 3))

    def __len__(self) -> int:
        return len(self.K)


def save_record(path: Path, record: DataclassInstance) -> None:
    """Write a dataclass of arrays and whole numbers as .npz, atomically. Raises utils.atomic.WriteError."""
    arrays = {item.name: getattr(record, item.name) for item in fields(record)}
    write_npz(path, arrays)


def load_record(path: Path, kind: type[Record]) -> Record:
    """Read back what `save_record` wrote. Raises ValueError naming the file when it is damaged."""
    try:
        file = read_npz(path)
        arrays = {item.name: file[item.name] for item in fields(kind)}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: not a readable record of {kind.__name__} ({error}); start anew without "
                         "--resume") from error
    return kind(**{name: int(value) if value.ndim == 0 else value for name, value in arrays.items()})


def _check(record: object, **wanted: tuple[int, ...]) -> None:
    for name, shape in wanted.items():
        got = np.shape(getattr(record, name))
        if got != shape:
            raise ValueError(f"{type(record).__name__}.{name}: shape {list(shape)} expected, got {list(got)}")
