"""Between our conventions and those of other programs: axes of cameras, direction of their matrices, rotations, lenses.

Ours (docs/architecture.md): world to camera, x right, y down, z forward (OpenCV); 6D rotations are the first two ROWS
of the matrix; K in pixels. Readers convert once, writers convert back; everything here is float64 NumPy, so that there
and back differ by float32's rounding alone.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flame.rotations import matrix_from_6d, matrix_from_axis_angle, matrix_to_6d, matrix_to_axis_angle

Floats = NDArray[np.float64]
Axes = Literal["opencv", "opengl"]

_FLIPS = {"opencv": np.eye(3), "opengl": np.diag([1.0, -1.0, -1.0])}
"""From OpenCV's camera axes to the named ones, and back; OpenGL and Blender: x right, y up, z backwards."""


def from_camera_to_world(matrix: ArrayLike, axes: Axes) -> tuple[Floats, Floats]:
    """(R [3,3], t [3]) of a camera-to-world matrix [3,4] or [4,4] whose camera has `axes`.

    The rotation is transposed, not inverted: a matrix that is none is refused later, by `Camera`.
    """
    matrix = np.asarray(matrix, np.float64)
    R = _FLIPS[axes] @ matrix[:3, :3].T
    return R, -R @ matrix[:3, 3]


def to_camera_to_world(R: ArrayLike, t: ArrayLike, axes: Axes) -> Floats:
    """The inverse of `from_camera_to_world`: [4,4]."""
    R, t = np.asarray(R, np.float64), np.asarray(t, np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = R.T @ _FLIPS[axes]
    matrix[:3, 3] = -R.T @ t
    return matrix


def from_world_to_camera(matrix: ArrayLike, axes: Axes) -> tuple[Floats, Floats]:
    """(R [3,3], t [3]) of a world-to-camera matrix [3,4] or [4,4] whose camera has `axes`."""
    matrix = _FLIPS[axes] @ np.asarray(matrix, np.float64)[:3]
    return matrix[:, :3], matrix[:, 3]


def to_world_to_camera(R: ArrayLike, t: ArrayLike, axes: Axes) -> Floats:
    """The inverse of `from_world_to_camera`: [3,4]."""
    return _FLIPS[axes] @ np.column_stack([np.asarray(R, np.float64), np.asarray(t, np.float64)])


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Floats:
    """K [3,3]."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def matrix_of_turn(vector: ArrayLike) -> Floats:
    """Rotation matrices [...,3,3] of axis-angle vectors [...,3] in radians."""
    return _through(matrix_from_axis_angle, vector)


def turn_of_matrix(matrix: ArrayLike) -> Floats:
    """Axis-angle vectors [...,3] of rotation matrices [...,3,3]."""
    return _through(matrix_to_axis_angle, matrix)


def six_of_turns(vectors: ArrayLike) -> Floats:
    """6D rotations [6k] of k axis-angle vectors [3k]."""
    return _through(matrix_to_6d, matrix_of_turn(np.reshape(vectors, (-1, 3)))).ravel()


def turns_of_six(sixes: ArrayLike) -> Floats:
    """Axis-angle vectors [3k] of k 6D rotations [6k]."""
    return turn_of_matrix(_through(matrix_from_6d, np.reshape(sixes, (-1, 6)))).ravel()


def _through(function: Any, values: ArrayLike) -> Floats:
    """A function of torch on float64 arrays."""
    result: Floats = function(torch.from_numpy(np.array(values, np.float64))).numpy()
    return result
