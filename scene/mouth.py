"""The mouth interior: where the teeth Gaussians start, and the cylinder that keeps them in the mouth.

docs/method.md, section 6. A head model with teeth (the open head) gives their surface; FLAME has none, so two open
half-rings of panels are placed behind its lips.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from flame import Head, subject_mouth
from scene.sampling import sample_surface


@dataclass(frozen=True)
class Cylinder:
    """Upright cylinder (axis y): centre [3], radius and half height in metres."""

    center: Tensor
    radius: float
    half_height: float

    def squared_distances(self, points: Tensor) -> Tensor:
        """Squared distance (m^2) [N] of points [N,3] to the cylinder, 0 inside.

        The nearest point of a convex set is a constant for the gradient of the squared distance to it, which keeps the
        backward pass short.
        """
        offset = points - self.center.to(points)
        nearest = offset.detach().clone()
        across = nearest[:, ::2]
        across *= (self.radius / across.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
        nearest[:, 1].clamp_(-self.half_height, self.half_height)
        return (offset - nearest).square().sum(dim=1)


@dataclass(frozen=True)
class Mouth:
    """Starting points of upper [n,3] and lower [m,3] teeth Gaussians (metres, neutral head) and their cylinder."""

    upper: Tensor
    lower: Tensor
    cylinder: Cylinder


def half_ring(columns: np.ndarray, bottom: float, top: float) -> tuple[np.ndarray, np.ndarray]:
    """A ring of vertical panels over columns [C,2] (x,z): vertices [2C,3] and triangles [2(C-1),3]."""
    low = np.column_stack([columns[:, 0], np.full(len(columns), bottom), columns[:, 1]])
    high = np.column_stack([columns[:, 0], np.full(len(columns), top), columns[:, 1]])
    i = np.arange(len(columns) - 1)
    n = len(columns)
    faces = np.concatenate([np.column_stack([i, i + 1, n + i]), np.column_stack([i + 1, n + i + 1, n + i])])
    return np.concatenate([low, high]), faces


def bounding_cylinder(points: np.ndarray, slack: float = 1.02, gums: float = 0.013) -> Cylinder:
    """The upright cylinder around teeth vertices [n,3]: smallest circle in x,z times `slack`.

    Its height reaches `gums` metres beyond the teeth at both ends, because gums and tongue belong to these Gaussians
    too (13 mm is what the reference's cylinder leaves around its panels).
    """
    (x, z), radius = cv2.minEnclosingCircle((points[:, [0, 2]] * 1000).astype(np.float32))
    low, high = points[:, 1].min(), points[:, 1].max()
    center = torch.tensor([x / 1000, (low + high) / 2, z / 1000], dtype=torch.float32)
    return Cylinder(center, radius / 1000 * slack, float(high - low) / 2 + gums)


# Places of the five columns of an arch between its ends: x in half widths, z in depths from the ends to the front.
ARCH_COLUMNS = np.array([(-1.0, 0.0), (-0.62, 0.75), (0.0, 1.0), (0.62, 0.75), (1.0, 0.0)])
OVERLAP = 0.3  # of a panel's height, past the line where the teeth meet: bites are seen open and closed


def teeth_surfaces(head: Head, neutral: np.ndarray, offset: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Upper and lower teeth surfaces (vertices [n,3], faces [m,3]) in the neutral head [V,3], moved by `offset` [3]."""
    if "upper_teeth_faces" in head.regions and "lower_teeth_faces" in head.regions:
        names = ("upper_teeth_faces", "lower_teeth_faces")
        return [(neutral + offset, head.faces[head.regions[name]].numpy()) for name in names]
    place = subject_mouth(head, torch.from_numpy(neutral).float())
    center = place.center.numpy() + offset
    columns = ARCH_COLUMNS * (place.width / 2, place.depth) + center[[0, 2]]
    upper = half_ring(columns, center[1] - OVERLAP * place.upper_height, center[1] + place.upper_height)
    lower = half_ring(columns, center[1] - place.lower_height, center[1] + OVERLAP * place.lower_height)
    return [upper, lower]


def create_mouth(head: Head, neutral: Tensor, count: int, offset: np.ndarray, seed: int) -> Mouth:
    """Sample about `count` points on each row of teeth. `neutral` [V,3]: the subject at rest; `offset` [3] metres."""
    surfaces = teeth_surfaces(head, neutral.double().numpy(), offset)
    samples = []
    for vertices, faces in surfaces:
        triangle, barycentric = sample_surface(vertices, faces, count, seed)
        points = (vertices[faces[triangle]] * barycentric[..., None]).sum(axis=1)
        samples.append(torch.from_numpy(points).float().reshape(-1, 3))
    used = np.concatenate([vertices[np.unique(faces)] for vertices, faces in surfaces])
    return Mouth(samples[0], samples[1], bounding_cylinder(used))
