"""The avatar before training: Gaussians sampled on the head and in the mouth, with what binds them.

docs/method.md, sections 3 and 4. Surface quantities (mask, skinning weights) are interpolated on the triangle a
Gaussian was sampled on; the reference looks them up in voxel grids around it, which averages over about a millimetre.
"""

from __future__ import annotations

import logging

import blendshape_ops as layout
import numpy as np
import torch
from blendshape_ops import Binding, Differences
from simple_knn import mean_squared_distances
from torch import Tensor

from arguments import ModelSettings
from flame import Head
from flame.rotations import rigid_align
from scene.avatar import FACE, LOWER_TEETH, UPPER_TEETH, Avatar
from scene.mouth import Mouth
from scene.rig import JAW_BONE, SKULL_BONE, Rig
from scene.sampling import sample_surface

log = logging.getLogger(__name__)

INITIAL_OPACITY = 0.1
BACKWARDS = -0.2  # z of a unit normal below which a triangle faces backwards
DARK = (0.05 - 0.5) / layout.SH_C0  # constant SH coefficient of that brightness
SMALLEST_SQUARED_DISTANCE = 1e-7  # m^2: coincident samples would get Gaussians of no extent


def consistency_mask(head: Head, neutral: Tensor, triangle: Tensor, barycentric: Tensor,
                     count: int, settings: ModelSettings) -> Tensor:
    """How much each Gaussian may differ per expression: [N,K], 0 = never.

    The displacement of expression k (coefficient 1), rigidly aligned through the back of the head, zero on the lower
    neck, interpolated on the triangle; mask = max(0, (|d| - threshold) / unit), limited by `mask_max`.
    """
    vertices = neutral.double()
    anchor = head.regions["back_of_head"]
    corners = head.faces[triangle]
    mask = torch.zeros(len(triangle), count)
    for k in range(count):
        moved = vertices + head.expression_dirs[:, :, k].double()
        rigid = rigid_align(moved[anchor], vertices[anchor])
        displacement = moved @ rigid[:, :3].T + rigid[:, 3] - vertices
        displacement[head.regions["lower_neck"]] = 0
        local = (displacement[corners] * barycentric[..., None].double()).sum(dim=1)
        mask[:, k] = ((local.norm(dim=1) - settings.mask_threshold) / settings.mask_unit).clamp(min=0).float()
    return mask.clamp(max=settings.mask_max)


def _neutral_table(points: Tensor, generator: torch.Generator) -> Tensor:
    """Initial parameters [N,60] of Gaussians at `points` [N,3]: grey, faint, round, as large as their spacing."""
    table = torch.zeros(len(points), layout.WIDTH)
    table[:, layout.MEANS] = points
    table[:, layout.QUATS.start] = 1
    squared = mean_squared_distances(points).clamp_min(SMALLEST_SQUARED_DISTANCE)
    table[:, layout.LOG_SCALES] = 0.5 * squared.log()[:, None]
    table[:, layout.OPACITY] = float(np.log(INITIAL_OPACITY / (1 - INITIAL_OPACITY)))
    table[:, layout.SH.start:layout.SH.start + 3] = torch.rand(len(points), 3, generator=generator) / 255
    return table


def faces_backwards(vertices: Tensor, corners: Tensor) -> Tensor:
    """Which triangles (corners [N,3] of vertices [V,3]) face backwards: bool [N]."""
    first, second, third = vertices[corners].unbind(dim=1)
    normal = torch.linalg.cross(second - first, third - first)
    return normal[:, 2] < BACKWARDS * normal.norm(dim=1)


def seen_range(codes: Tensor) -> Tensor:
    """Smallest and largest of codes [T,K], 0 included: [2,K]."""
    with_neutral = torch.cat([codes, codes.new_zeros(1, codes.shape[1])])
    return torch.stack([with_neutral.amin(dim=0), with_neutral.amax(dim=0)])


def create_avatar(
    head: Head, rig: Rig, mouth: Mouth, settings: ModelSettings, seed: int, train_frames: Tensor,
) -> Avatar:
    """The untrained avatar (CPU, float32) of the rig's identity.

    seed: fixes sampling and colours. train_frames: int64, the rig's frames that training will see.
    """
    generator = torch.Generator().manual_seed(seed)
    surface = head.regions["surface_faces"]
    neutral = rig.posed.neutral
    picked, bary = sample_surface(neutral.numpy(), head.faces[surface].numpy(), settings.num_face_gaussians, seed)
    triangle, barycentric = surface[torch.from_numpy(picked)], torch.from_numpy(bary).float()
    corners = head.faces[triangle]
    face_points = (neutral[corners] * barycentric[..., None]).sum(dim=1)

    count_bones = rig.bones.shape[1]
    face_weights = torch.zeros(len(triangle), count_bones)
    face_weights[:, :head.weights.shape[1]] = (head.weights[corners] * barycentric[..., None]).sum(dim=1)
    face_weights /= face_weights.sum(dim=1, keepdim=True)

    tables, weights = [_neutral_table(face_points, generator)], [face_weights]
    # A clip from the front never shows the back of the head, but a mouth that opens wider than in training does: its
    # inside must be dark.
    tables[0][faces_backwards(neutral, corners), layout.SH.start:layout.SH.start + 3] = DARK
    parts = [torch.full((len(triangle),), FACE)]
    for part, points, bone in ((UPPER_TEETH, mouth.upper, SKULL_BONE), (LOWER_TEETH, mouth.lower, JAW_BONE)):
        if len(points):
            tables.append(_neutral_table(points, generator))
            weights.append(torch.eye(count_bones)[bone].expand(len(points), -1))
            parts.append(torch.full((len(points),), part))
    table = torch.cat(tables)
    teeth = len(table) - len(triangle)
    mask = torch.zeros(len(triangle), rig.num_expressions)
    if settings.blendshapes:
        mask = consistency_mask(head, neutral, triangle, barycentric, rig.num_expressions, settings)
    binding = Binding(
        triangle=torch.cat([triangle, torch.full((teeth,), -1)]).int(),
        anchor=table[:, layout.MEANS].clone(),
        barycentric=torch.cat([barycentric, torch.zeros(teeth, 3)]),
        weights=torch.cat(weights))
    differences = Differences.from_mask(torch.cat([mask, torch.zeros(teeth, rig.num_expressions)]))
    log.info("Avatar: %d face Gaussians, %d in the mouth, %.1f of %d expressions each on average",
             len(triangle), teeth, len(differences.mask) / max(1, len(triangle)), rig.num_expressions)
    return Avatar(table.requires_grad_(True), differences, binding, torch.cat(parts).to(torch.uint8),
                  seen_range(rig.beta.cpu()[train_frames]))
