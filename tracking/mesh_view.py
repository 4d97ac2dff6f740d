"""The fitted head as it lies over the pictures: silhouettes for the matte, shading for the preview."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from flame import Head, PosedHead, pose_head
from tracking.records import Fit, Floats
from utils.mesh_raster import nearest_surface, project

# Landmarks hold the face in place; skull and ears only follow it, and a silhouette has this value there.
GUESSED = 0.96
SKULL, EARS = 1, 2
# Ears, in half widths of the face: beside it from there on, and up to so far above the eyes.
EAR_BESIDE, EAR_ABOVE = 1.06, 0.15


@dataclass(frozen=True, eq=False)
class Drawing:
    """A drawn head, all [S,S]: brightness in 0 .. 1; where the mesh is; where it is above the neck's lower ring; which
    part is seen (SKULL, EARS, else 0).
    """

    brightness: NDArray[np.float32]
    covered: NDArray[np.bool_]
    head: NDArray[np.bool_]
    part: NDArray[np.uint8]


def parts_of(head: Head) -> NDArray[np.uint8]:
    """SKULL, EARS or 0 (face, neck, what lies inside) for each triangle [F], from where it lies about the face."""
    points = head.v_template.numpy()
    face, eyes = (points[head.regions[name].numpy()] for name in ("face", "eyes"))
    lips, eye_top = points[head.regions["mouth"].numpy(), 1].max(), eyes[:, 1].max()
    half = np.abs(face[:, 0]).max()
    own = np.zeros(head.n_vertices, bool)
    own[head.regions["face"].numpy()] = own[head.regions["eyes"].numpy()] = True
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    beyond = ~own & (y > lips) & ((y > eye_top) | (x > 0.9 * half) | (z < face[:, 2].min()))
    ears = beyond & (y < eye_top + EAR_ABOVE * half) & (x > EAR_BESIDE * half)
    faces = head.faces.numpy()
    surface = np.zeros(len(faces), bool)
    surface[head.regions["surface_faces"].numpy()] = True
    part = np.where(surface & beyond[faces].all(axis=1), SKULL, 0)
    part[surface & ears[faces].all(axis=1)] = EARS
    return part.astype(np.uint8)


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
        self.part = parts_of(head)

    def vertices(self, index: int) -> Floats:
        """[V,3] metres, head space."""
        return np.asarray(self.posed.vertices_at(slice(index, index + 1))[0].numpy(), np.float32)

    def pixels(self, points: Floats, index: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Where points [N,3] of head space appear in picture `index`: pixels [N,2] and depth [N]."""
        K = self.fit.K * np.array([[self.scale], [self.scale], [1]], np.float32)
        return project(points, self.fit.R[index], self.fit.t[index], K)

    def silhouette(self, index: int) -> NDArray[np.float32]:
        """[size,size]: 1 where face and neck above its lower ring are, GUESSED at skull and ears, 0 elsewhere.

        Triangles that show their backs are left out: a head hides them, but for the neck's inside seen from below.
        """
        pixels, depth = self.pixels(self.vertices(index), index)
        triangle, _ = nearest_surface(pixels, depth, self.faces[self.above_neck], self.size, self.size, cull_back=True)
        value = np.where(self.part[self.above_neck] > 0, GUESSED, 1)[triangle]
        return np.where(triangle >= 0, value, 0).astype(np.float32)

    def draw(self, index: int) -> Drawing:
        """The head lit from the camera."""
        vertices = self.vertices(index)
        pixels, depth = self.pixels(vertices, index)
        triangle, _ = nearest_surface(pixels, depth, self.faces, self.size, self.size, cull_back=True)
        corners = (vertices @ self.fit.R[index].T)[self.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        facing = -normals[:, 2] / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
        covered = triangle >= 0
        return Drawing(np.clip(facing, 0, 1)[triangle].astype(np.float32), covered,
                       covered & self.above_neck[triangle], np.where(covered, self.part[triangle], 0).astype(np.uint8))
