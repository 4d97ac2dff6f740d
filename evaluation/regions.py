"""Where the face, the eyes and the mouth are in a picture, and how the head mesh lies over it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from utils.mesh_raster import MeshBuffers, project, rasterize_mesh

REGIONS = ("face", "eyes", "mouth")
SMALLEST_REGION = 16  # pixels; a few stray samples of a turned-away eye say nothing about its quality
MESH_COLOR = np.array([80, 140, 200], np.float32)  # what mesh previews of this field are painted with

Mask = NDArray[np.bool_]
Floats = NDArray[np.floating]


class ViewCamera(Protocol):
    """World-to-camera R [3,3], t [3] in metres, pixel intrinsics K [3,3], raster size."""

    @property
    def R(self) -> Floats: ...  # noqa: N802 (a name of the mathematics)
    @property
    def t(self) -> Floats: ...
    @property
    def K(self) -> Floats: ...  # noqa: N802
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


@dataclass(frozen=True)
class PosedMeshes:
    """The head model's mesh in every frame.

    faces: [F,3] vertex numbers. vertices: frame index -> [V,3] in metres, posed, in the cameras' world. regions: name
    -> vertex numbers; of these `face`, `eyes` and `mouth` are scored, those that are missing are not.
    """

    faces: NDArray[np.int64]
    vertices: Callable[[int], Floats]
    regions: Mapping[str, NDArray[np.int64]]

    @cached_property
    def parts(self) -> dict[str, list[Mask]]:
        """Region name -> triangle masks [F], one for each piece that hangs together (the two eyes are two)."""
        known = {name: np.asarray(self.regions[name]) for name in REGIONS if name in self.regions}
        return {name: _connected(self.faces, ids) for name, ids in known.items() if len(ids)}

    def view(self, index: int, camera: ViewCamera) -> MeshView:
        """The mesh of frame `index` as `camera` sees it."""
        vertices = np.asarray(self.vertices(index), np.float64)
        pixels, depth = project(vertices, camera.R, camera.t, camera.K)
        buffers = rasterize_mesh(pixels, depth, self.faces, camera.width, camera.height)
        return MeshView(self, vertices, camera, buffers)


@dataclass(frozen=True)
class MeshView:
    """One frame's mesh, rasterised."""

    meshes: PosedMeshes
    vertices: Floats
    camera: ViewCamera
    buffers: MeshBuffers

    def region_masks(self, head: Mask) -> dict[str, Mask]:
        """Pixel masks [H,W] of the regions that the head model knows.

        A region's pieces that are visible (not hidden by other triangles) are each filled to their convex outline,
        which takes in what lies between the lips and lids, and cut to the head mask. Empty when hardly visible.
        """
        return {name: self._fill(parts) & head for name, parts in self.meshes.parts.items()}

    def overlay(self, image: NDArray[np.uint8], opacity: float = 0.55) -> NDArray[np.uint8]:
        """The mesh, shaded by a light at the camera, over `image` uint8 [H,W,3]."""
        triangle, hit = self.buffers.triangle, self.buffers.triangle >= 0
        corners = self.vertices[self.meshes.faces[triangle[hit]]]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
        facing = np.abs(normal @ self.camera.R[2])  # cosine towards the view axis, whichever side is seen
        color = MESH_COLOR * (0.25 + 0.75 * facing[:, None])
        result = image.astype(np.float32)
        result[hit] += opacity * (color - result[hit])
        return result.round().astype(np.uint8)

    def _fill(self, parts: list[Mask]) -> Mask:
        triangle = self.buffers.triangle
        filled = np.zeros(triangle.shape, np.uint8)
        for part in parts:
            seen = (triangle >= 0) & part[triangle]
            if np.count_nonzero(seen) < SMALLEST_REGION:
                continue
            rows, columns = np.nonzero(seen)
            outline = cv2.convexHull(np.stack([columns, rows], axis=1).astype(np.int32))
            cv2.fillConvexPoly(filled, outline, 1)
        return filled.astype(bool)


def box(mask: Mask) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom (the latter two exclusive) of a mask [H,W]; None when it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _connected(faces: NDArray[np.int64], ids: NDArray[np.int64]) -> list[Mask]:
    """Masks [F] of the triangles whose three corners are in `ids`, split into pieces that share vertices."""
    count = int(faces.max()) + 1
    member = np.zeros(count, bool)
    member[ids[ids < count]] = True
    inside = member[faces].all(axis=1)
    sides = np.concatenate([faces[inside][:, [0, 1]], faces[inside][:, [1, 2]]])
    graph = coo_matrix((np.ones(len(sides)), (sides[:, 0], sides[:, 1])), shape=(count, count))
    label = connected_components(graph, directed=False)[1][faces[:, 0]]
    return [inside & (label == piece) for piece in np.unique(label[inside])]
