"""The fitted head as it lies over the pictures: silhouettes for the matte, shading for the preview."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flame import Head, PosedHead, pose_head
from tracking.records import Fit, Floats
from utils.mesh_raster import project, rasterize_mesh


@dataclass(frozen=True, eq=False)
class Drawing:
    """A drawn head, all [S,S]: brightness in 0 .. 1; where the mesh is; where it is above the neck's lower ring."""

    brightness: NDArray[np.float32]
    covered: NDArray[np.bool_]
    head: NDArray[np.bool_]


class MeshView:
    """Draws the head of a fit frame by frame. size: pixels a side of the drawn picture; fit.K is for `fit_size`."""

    def __init__(self, head: Head, fit: Fit, fit_size: int, size: int | None = None) -> None:
        self.fit = fit
        self.size = size or fit_size
        self.scale = self.size / fit_size
        self.posed: PosedHead = pose_head(
            head, *(torch.from_numpy(np.ascontiguousarray(getattr(fit, name)))
                    for name in ("shape", "expression", "jaw", "eyes", "eyelids")))
        self.faces = head.faces.numpy()
        neck = np.zeros(head.n_vertices, bool)
        neck[head.regions["lower_neck"].numpy()] = True
        self.above_neck = ~neck[self.faces].any(axis=1)

    def vertices(self, index: int) -> Floats:
        """[V,3] metres, head space."""
        return np.asarray(self.posed.vertices_at(slice(index, index + 1))[0].numpy(), np.float32)

    def pixels(self, points: Floats, index: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Where points [N,3] of head space appear in picture `index`: pixels [N,2] and depth [N]."""
        K = self.fit.K * np.array([[self.scale], [self.scale], [1]], np.float32)
        return project(points, self.fit.R[index], self.fit.t[index], K)

    def silhouette(self, index: int) -> NDArray[np.float32]:
        """[size,size]: 1 where the head above the lower ring of the neck is, 0 elsewhere."""
        pixels, depth = self.pixels(self.vertices(index), index)
        triangle = rasterize_mesh(pixels, depth, self.faces[self.above_neck], self.size, self.size).triangle
        return (triangle >= 0).astype(np.float32)

    def draw(self, index: int) -> Drawing:
        """The head lit from the camera."""
        vertices = self.vertices(index)
        pixels, depth = self.pixels(vertices, index)
        triangle = rasterize_mesh(pixels, depth, self.faces, self.size, self.size, cull_back=True).triangle
        corners = (vertices @ self.fit.R[index].T)[self.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        facing = -normals[:, 2] / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
        covered = triangle >= 0
        return Drawing(np.clip(facing, 0, 1)[triangle].astype(np.float32), covered, covered & self.above_neck[triangle])
