"""Cameras: the browser's to ours, and the clip's fitted into a window of another shape.

viser's cameras look along +z with y down, as ours do; wxyz turns camera axes to world axes and position is in the
world, so R = matrix(wxyz)^T and t = -R position. The field of view is vertical; the principal point is the middle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flame.rotations import matrix_from_quat
from gaussian_renderer import Cameras
from scene.clip import Clip
from utils.images import margins

LEAST_FOV, MOST_FOV = math.radians(1), math.radians(170)


@dataclass(frozen=True, eq=False)
class OrbitCamera:
    """What viser needs for a view: position, the point it looks at and its up vector [3], vertical fov in radians."""

    position: NDArray[np.float64]
    look_at: NDArray[np.float64]
    up: NDArray[np.float64]
    fov: float


def browser_camera(wxyz: ArrayLike, position: ArrayLike, fov: float, width: int, height: int) -> Cameras:
    """The camera of a browser window for a picture of width x height (CPU, B = 1).

    ValueError when a number is not finite, the quaternion is zero, or the field of view is no angle of a picture:
    browsers send these, and anyone can be one.
    """
    try:
        quat, place, fov = np.asarray(wxyz, np.float64), np.asarray(position, np.float64), float(fov)
    except (TypeError, ValueError):
        raise ValueError(f"camera: wanted numbers, got {wxyz!r}, {position!r} and {fov}") from None
    if quat.shape != (4,) or place.shape != (3,) or not (np.isfinite(quat).all() and np.isfinite(place).all()):
        raise ValueError(f"camera: wanted a finite quaternion and position, got {wxyz!r} and {position!r}")
    if np.linalg.norm(quat) < 1e-6 or np.abs(place).max() > 1e6:
        raise ValueError(f"camera: wanted a quaternion and a position within 1000 km, got {wxyz!r} and {position!r}")
    if not LEAST_FOV <= fov <= MOST_FOV:
        raise ValueError(f"camera: wanted a field of view of 1 to 170 degrees, got {fov} rad")
    R = matrix_from_quat(torch.from_numpy(quat)).T
    t = -R @ torch.from_numpy(place)
    focal = 0.5 * height / math.tan(0.5 * fov)
    K = torch.tensor([[focal, 0, 0.5 * width], [0, focal, 0.5 * height], [0, 0, 1]])
    return Cameras(R.float()[None], t.float()[None], K[None].float(), width, height)


def clip_camera(clip: Clip, frame: int, width: int, height: int) -> Cameras:
    """The camera of a frame of the clip, with the whole frame in the middle of width x height pixels (CPU, B = 1)."""
    left, top, scale = fitted(clip, width, height)
    K = clip.K[frame] * torch.tensor([[scale], [scale], [1.0]])
    K[0, 2] += left
    K[1, 2] += top
    return Cameras(clip.R[frame][None], clip.t[frame][None], K[None], width, height)


def around(camera: Cameras, turn: Tensor, middle: ArrayLike) -> Cameras:
    """The camera (B = 1) that sees a head at rest as `camera` sees it turned by `turn` [3,3] about `middle` [3]."""
    centre = torch.as_tensor(np.asarray(middle, np.float32))
    return replace(camera, R=camera.R @ turn, t=camera.t + camera.R[0] @ (centre - turn @ centre))


def fitted(clip: Clip, width: int, height: int) -> tuple[float, float, float]:
    """Where the clip's picture lies in width x height: left and top margin in pixels, and its magnification."""
    return margins((clip.width, clip.height), (width, height))


def opening_view(clip: Clip, target: ArrayLike, frame: int = 0) -> OrbitCamera:
    """The camera of a frame of the clip as one to orbit with around `target` [3] (the middle of the head).

    The orbit's centre lies on the optical axis, at the depth of the target: looking straight at the target instead
    would turn the camera away from the frame's view.
    """
    R, t = clip.R[frame].double().numpy(), clip.t[frame].double().numpy()
    position = -R.T @ t
    depth = max(float(R[2] @ (np.asarray(target, np.float64) - position)), 0.05)
    fov = 2 * math.atan(0.5 * clip.height / float(clip.K[frame, 1, 1]))
    return OrbitCamera(position, position + depth * R[2], -R[1], fov)
