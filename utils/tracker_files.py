"""Contents of a tracker data set (scene/readers/tracker.py reads it): `.frame` records and .obj meshes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

SHAPE_CODES, EXPRESSION_CODES = 300, 100  # what FLAME trackers store; heads with fewer codes are zero-padded


def tracker_record(
    index: int, codes: dict[str, Floats], R: Floats, t: Floats, K: Floats, size: int
) -> dict[str, Any]:
    """The dictionary of checkpoint/%05d.frame; every array has a leading batch axis of 1.

    codes: shape [S], expression [E], jaw [6], eyes [12], eyelids [2]. R [3,3], t [3]: world to camera, x right, y down,
    z forward. K [3,3]: pixels of a square picture of `size`.
    """
    f32 = np.float32
    # PyTorch3D counts x to the left and y up, multiplies row vectors, and measures in half picture sizes.
    flip = np.diag([-1.0, -1.0, 1.0])
    half = size / 2
    return {
        "flame": {
            "shape": _padded(codes["shape"], SHAPE_CODES), "exp": _padded(codes["expression"], EXPRESSION_CODES),
            **{name: np.asarray(codes[name], f32)[None] for name in ("jaw", "eyes", "eyelids")},
            "tex": np.zeros((1, 140), f32), "sh": np.zeros((1, 9, 3), f32),
        },
        "camera": {
            "R": (R.T @ flip)[:2].reshape(1, 6).astype(f32), "t": (flip @ t)[None].astype(f32),
            "fl": np.array([[K[0, 0] / half]], f32), "pp": np.array([[1 - K[0, 2] / half, 1 - K[1, 2] / half]], f32),
        },
        "opencv": {"R": R[None].astype(f32), "t": t[None].astype(f32), "K": K[None].astype(f32)},
        "img_size": np.array([[size, size]], np.int64), "frame_id": f"{index:05d}", "global_step": index,
    }


def obj_text(vertices: Floats, faces: NDArray[np.integer]) -> str:
    """A Wavefront .obj of vertices [V,3] and triangles [F,3]."""
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]
    return "\n".join(lines) + "\n"


def _padded(code: Floats, length: int) -> NDArray[np.float32]:
    """[1,max(length, n)]: zeros behind the code; a head with more codes keeps all of them."""
    padded = np.zeros((1, max(length, len(code))), np.float32)
    padded[0, :len(code)] = code
    return padded
