"""Labels of the open head's surface: what a frontal view sees, regions, and the landmarks that regions rest on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from utils.mesh_raster import project, rasterize_mesh

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]

PART_NAMES = ("skin", "left_eyeball", "right_eyeball", "upper_teeth", "lower_teeth", "tongue")
LANDMARK_KEYS = ("mp478_tri", "mp478_vertices", "mp478_bary", "mp478_valid", "mp478_spread", "mp478_mirror")
# MediaPipe landmark numbers of outlines, in order around them, and single ones
LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
OVAL = [
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
]  # fmt: skip
FOREHEAD, MOUTH_CORNER = 10, 61

_VIEW_SIZE, _VIEW_DISTANCE, _VIEW_ANGLE = 900, 1.2, 16.0  # pixels, metres, degrees of field of view


def label(arrays: Mapping[str, Any], landmarks: Path) -> dict[str, Any]:
    """vertex_visible, region_* and the landmark embedding, carried over from the head in `landmarks`.

    Raises ValueError when that head has another topology.
    """
    with np.load(landmarks, allow_pickle=False) as other:
        if not np.array_equal(other["f"], arrays["f"]):
            raise ValueError(f"{landmarks}: its triangles differ, so its landmark embedding does not fit")
        carried = {key: other[key] for key in LANDMARK_KEYS}
    vertices, faces = arrays["v_template"].astype(np.float64), arrays["f"]
    corners = faces[np.maximum(carried["mp478_tri"], 0)]
    points = np.einsum("kc,kcd->kd", carried["mp478_bary"], vertices[corners])
    visible = visible_skin(vertices, faces, arrays["face_part"] == 0)
    masks = regions(arrays, vertices, points, visible)
    names = [str(name) for name in arrays["part_names"]]
    masks |= {name: arrays["vertex_part"] == index for index, name in enumerate(names) if index}
    masks["eyes"] = masks["left_eyeball"] | masks["right_eyeball"]
    found: dict[str, Any] = {f"region_{name}": np.flatnonzero(mask).astype(np.int32) for name, mask in masks.items()}
    return carried | found | {"vertex_visible": visible}


def visible_skin(vertices: Floats, faces: Indices, skin_faces: Mask) -> Mask:
    """Vertices [N] of skin triangles that show in one of 15 views, 50 degrees to either side and 15 up and down."""
    focal = _VIEW_SIZE / 2 / np.tan(np.radians(_VIEW_ANGLE) / 2)
    center = _VIEW_SIZE / 2 + 0.5  # the shipped labels were made with pixel centres at whole numbers
    intrinsics = np.array([[focal, 0, center], [0, focal, center], [0, 0, 1]])
    seen: set[int] = set()
    for yaw in (-50, -25, 0, 25, 50):
        for pitch in (-15, 0, 15):
            turn = cv2.Rodrigues(np.radians([pitch, 0.0, 0]))[0] @ cv2.Rodrigues(np.radians([0.0, yaw, 0]))[0]
            rotation = np.diag([1.0, -1, -1]) @ turn  # to image axes: x right, y down, z away
            pixels, depth = project(vertices, rotation, np.array([0, 0, _VIEW_DISTANCE]), intrinsics)
            buffers = rasterize_mesh(pixels, depth, faces, _VIEW_SIZE, _VIEW_SIZE, cull_back=True)
            seen.update(np.unique(buffers.triangle[buffers.triangle >= 0]).tolist())
    shown = np.array(sorted(seen))
    visible = np.zeros(len(vertices), bool)
    visible[faces[shown[skin_faces[shown]]]] = True
    return visible


def regions(arrays: Mapping[str, Any], vertices: Floats, points: Floats, visible: Mask) -> dict[str, Mask]:
    """Masks [N] of face, scalp, ears, lips, back_of_head and lower_neck; points: the 478 landmarks [478,3].

    The thresholds, in metres, are read off this one head.
    """
    skin = arrays["vertex_part"] == 0
    weights = arrays["weights"]
    jaw = arrays["J_regressor"][2] @ arrays["v_template"]
    n_shape = int(arrays["n_shape"])
    motion = np.linalg.norm(arrays["shapedirs"][:, :, n_shape:], axis=1).max(1)
    x, y, z = np.abs(vertices[:, 0]), vertices[:, 1], vertices[:, 2]
    face = inside_outline(vertices, points[OVAL]) & skin & visible & (z > -0.02)
    face &= weights[:, 1] + weights[:, 2] > 0.5
    ears = skin & (x > 0.0745) & (np.abs(y + 0.01) < 0.045) & (np.abs(z + 0.03) < 0.045)
    above = y > points[FOREHEAD, 1]
    behind = (z < jaw[2] - 0.02) & (y > jaw[1] - 0.015)
    back = skin & ~ears & (x < 0.074) & (motion < 1e-7) & (weights[:, 1] > 0.999)
    lips = inside_outline(vertices, points[LIPS], grow=0.04) & visible & (z > points[MOUTH_CORNER, 2] - 0.008)
    return {
        "face": face,
        "scalp": skin & ~face & ~ears & (above | behind),
        "ears": ears,
        "lips": lips,
        "back_of_head": back & (z < -0.055) & (y > -0.01) & (y < 0.095),
        "lower_neck": skin & (cKDTree(vertices[arrays["neck_ring"]]).query(vertices)[0] < 0.022),
    }


def inside_outline(vertices: Floats, outline: Floats, grow: float = 0.0) -> Mask:
    """Vertices [N] whose x, y lie inside a closed outline [M,3] seen from the front, widened about its middle."""
    middle = outline[:, :2].mean(0)
    polygon = ((middle + (outline[:, :2] - middle) * (1 + grow)) * 1e4).astype(np.float32)  # tenths of a millimetre
    return np.array(
        [cv2.pointPolygonTest(polygon, (1e4 * float(x), 1e4 * float(y)), False) >= 0 for x, y, _ in vertices]
    )
