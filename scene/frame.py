"""Immutable records of one tracked video frame. Arrays are float32 NumPy copies that cannot be written to.

Conventions (docs/architecture.md): metres; world-to-camera R, t with x right, y down, z forward; pixel K whose
coordinate u covers pixel i over [i, i+1], so that the centre of pixel i lies at u = i + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.images import margins

FloatArray = NDArray[np.float32]

ROTATION_TOLERANCE = 1e-3  # trackers store float32 rotations optimised as 6D vectors; errors stay below 1e-5


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera at one raster size.

    R [3,3], t [3]: world to camera, metres. K [3,3]: pixel intrinsics, last row (0,0,1). width, height: pixels.

    Raises:
        ValueError: wrong shape, a non-finite number, R not a rotation to 1e-3, a focal length or a size not positive.
    """

    R: FloatArray
    t: FloatArray
    K: FloatArray
    width: int
    height: int

    def __post_init__(self) -> None:
        for name, shape in (("R", (3, 3)), ("t", (3,)), ("K", (3, 3))):
            _freeze(self, name, shape)
        _check_rotation(self.R)
        if not (self.K[0, 0] > 0 and self.K[1, 1] > 0):
            raise ValueError(f"K: focal lengths must be positive, got {self.K[0, 0]:g} and {self.K[1, 1]:g}")
        if not np.allclose(self.K[2], (0, 0, 1)):
            raise ValueError(f"K: the last row must be (0, 0, 1), got {self.K[2].tolist()}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"camera size must be positive, got {self.width} x {self.height}")

    def resized(self, width: int, height: int) -> Camera:
        """The same view on a raster of width x height pixels: the rows of K scale with the axes, exactly."""
        scale = np.array([width / self.width, height / self.height, 1.0])
        return Camera(self.R, self.t, self.K * scale[:, None], width, height)

    def fitted(self, width: int, height: int) -> Camera:
        """The whole picture in the middle of a raster of width x height pixels, enlarged evenly."""
        left, top, scale = margins((self.width, self.height), (width, height))
        K = self.K * np.array([[scale], [scale], [1.0]]) + np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
        return Camera(self.R, self.t, K, width, height)


@dataclass(frozen=True, eq=False)
class Tracking:
    """Codes of the parametric head for one frame, as the data set stores them.

    shape [S], expression [E]; jaw [6] and eyes [12] (left, right) are 6D rotations (first two ROWS of the matrix);
    eyelids [2] (left, right) closing; neck [6]: 6D rotation, None where the data set tracks none (at rest).

    Raises:
        ValueError: wrong shape, a non-finite number, or a 6D rotation without a direction.
    """

    shape: FloatArray
    expression: FloatArray
    jaw: FloatArray
    eyes: FloatArray
    eyelids: FloatArray
    neck: FloatArray | None = None

    def __post_init__(self) -> None:
        for name, shape in (("shape", (-1,)), ("expression", (-1,)), ("jaw", (6,)), ("eyes", (12,)), ("eyelids", (2,))):
            _freeze(self, name, shape)
        turns = {"jaw": self.jaw, "left eye": self.eyes[:6], "right eye": self.eyes[6:]}
        if self.neck is not None:
            _freeze(self, "neck", (6,))
            turns["neck"] = self.neck
        for name, six in turns.items():
            # Parallel or zero rows span no rotation: Gram-Schmidt would divide by (nearly) zero.
            if np.linalg.norm(np.cross(six[:3], six[3:])) < 1e-6:
                raise ValueError(f"{name}: {six.tolist()} is no 6D rotation (its two rows are zero or parallel)")


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture: its place in the data set, its camera at the size of its image, its codes and its files.

    mask_path is None where the image's own alpha channel is the mask. time: the number of the moment; the pictures that
    several cameras took at one moment share it, and with it their tracking (-1, the default: a moment of its own, the
    index). view: the name of the camera, "" where there is only one.
    """

    index: int
    camera: Camera
    tracking: Tracking
    image_path: Path
    mask_path: Path | None = None
    time: int = -1
    view: str = ""

    def __post_init__(self) -> None:
        if self.time < 0:
            object.__setattr__(self, "time", self.index)


def read_only(array: ArrayLike) -> FloatArray:
    """A float32 copy that cannot be written to."""
    copy = np.array(array, dtype=np.float32)
    copy.setflags(write=False)
    return copy


def _freeze(record: object, name: str, shape: tuple[int, ...]) -> None:
    array = read_only(getattr(record, name))
    if array.ndim != len(shape) or any(want not in (-1, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = [("any" if n == -1 else n) for n in shape]
        raise ValueError(f"{name}: shape {wanted} expected, got {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: {np.count_nonzero(~np.isfinite(array))} of {array.size} numbers are not finite")
    object.__setattr__(record, name, array)


def _check_rotation(R: FloatArray) -> None:
    error = float(np.abs(R @ R.T - np.eye(3)).max())
    if error > ROTATION_TOLERANCE or np.linalg.det(R) < 0:
        raise ValueError(
            f"R: a rotation is expected, got a matrix with |R R^T - I| = {error:.2g} and determinant "
            f"{np.linalg.det(R):.3g}"
        )
