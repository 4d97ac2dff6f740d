"""The fitted head as it lies over the pictures: silhouettes for the matte, shading for the preview."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from flame import Head, PosedHead, pose_head
from tracking.footage import ByteImage
from tracking.records import Fit, Floats
from tracking.workspace import PictureStore
from utils.mesh_raster import nearest_surface, project

# Landmarks hold the face in place; skull and ears only follow it, and a silhouette has this value there.
GUESSED = 0.96
SKULL, EARS = 1, 2
LARGEST = 384  # pixels a side: neither silhouettes nor previews need more
# Ears, in half widths of the face: beside it from there on, and up to so far above the eyes.
EAR_BESIDE, EAR_ABOVE = 1.06, 0.15


@dataclass(frozen=True, eq=False)
class Drawing:
    """A drawn head, all [S,S]: brightness, uint8; where the mesh is; where it is above the neck's lower ring; which
    part is seen (SKULL, EARS, else 0).
    """

    brightness: ByteImage
    covered: NDArray[np.bool_]
    head: NDArray[np.bool_]
    part: ByteImage

    def packed(self) -> ByteImage:
        """As a picture [S,S,2]: the brightness, and all else as bits."""
        bits = self.covered.astype(np.uint8) | self.head.astype(np.uint8) << 1 | self.part << 2
        return np.asarray(cv2.merge((self.brightness, bits)), np.uint8)

    @staticmethod
    def unpacked(picture: ByteImage) -> Drawing:
        """Inverse of `packed`."""
        brightness, bits = picture[..., 0], picture[..., 1]
        return Drawing(brightness, bits & 1 > 0, bits & 2 > 0, np.asarray(bits >> 2, np.uint8))


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
    """Draws the head of a fit frame by frame. size: pixels a side of a drawing; fit.K is for `fit_size`. kept: where
    the drawings of silhouettes lie, for stages that draw the same fit again.
    """

    def __init__(
        self, head: Head, fit: Fit, fit_size: int, size: int | None = None, kept: PictureStore | None = None
    ) -> None:
        self.fit = fit
        self.size, self.fit_size, self.kept = size or fit_size, fit_size, kept
        self.scale = self.size / fit_size
        self.posed: PosedHead = pose_head(
            head, *(torch.from_numpy(np.ascontiguousarray(getattr(fit, name)))
                    for name in ("shape", "expression", "jaw", "eyes", "eyelids")))
        self.faces = head.faces.numpy()
        neck = np.zeros(head.n_vertices, bool)
        neck[head.regions["lower_neck"].numpy()] = True
        self.above_neck = ~neck[self.faces].any(axis=1)
        self.part = parts_of(head)

    @classmethod
    def of_stages(cls, head: Head, fit: Fit, fit_size: int, workspace: Path) -> MeshView:
        """What matte, verdict and preview draw: once, at a moderate size."""
        return cls(head, fit, fit_size, min(fit_size, LARGEST), PictureStore(workspace / "drawings"))

    def vertices(self, index: int) -> Floats:
        """[V,3] metres, head space."""
        return np.asarray(self.posed.vertices_at(slice(index, index + 1))[0].numpy(), np.float32)

    def pixels(self, points: Floats, index: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Where points [N,3] of head space appear in picture `index`: pixels [N,2] and depth [N]."""
        K = self.fit.K * np.array([[self.scale], [self.scale], [1]], np.float32)
        return project(points, self.fit.R[index], self.fit.t[index], K)

    def silhouette(self, index: int) -> NDArray[np.float32]:
        """[fit_size,fit_size]: 1 where face and neck above its lower ring are, GUESSED at skull and ears, else 0."""
        drawing = self._drawn(index)
        if self.kept is not None:
            self.kept.write(index, drawing.packed())
        value = drawing.head * np.where(drawing.part > 0, np.float32(GUESSED), np.float32(1))
        return np.asarray(cv2.resize(value, (self.fit_size, self.fit_size), interpolation=cv2.INTER_LINEAR))

    def draw(self, index: int) -> Drawing:
        """The head lit from the camera."""
        if self.kept is not None and self.kept.path(index).is_file():
            return Drawing.unpacked(self.kept.read(index))
        return self._drawn(index)

    def _drawn(self, index: int) -> Drawing:
        """Triangles that show their backs are left out: a head hides them but for the neck's inside, seen from below.
        """
        vertices = self.vertices(index)
        pixels, depth = self.pixels(vertices, index)
        triangle, _ = nearest_surface(pixels, depth, self.faces, self.size, self.size, cull_back=True)
        corners = (vertices @ self.fit.R[index].T)[self.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        facing = -normals[:, 2] / np.maximum(np.linalg.norm(normals, axis=1), 1e-12)
        covered = triangle >= 0
        return Drawing(np.rint(255 * np.clip(facing, 0, 1)).astype(np.uint8)[triangle], covered,
                       covered & self.above_neck[triangle], np.where(covered, self.part[triangle], np.uint8(0)))
