"""Small made-up avatars for tests that need no head model."""

from __future__ import annotations

import dataclasses

import blendshape_ops as layout
import torch
from blendshape_ops import Binding, Differences

from flame.rotations import matrix_from_axis_angle
from scene.avatar import FACE, LOWER_TEETH, UPPER_TEETH, Avatar
from scene.clip import Clip
from scene.sway import Sway


def swaying(avatar: Avatar, neutral: torch.Tensor, expressions: torch.Tensor, clip: Clip, seed: int = 0) -> Clip:
    """Give `avatar` a made-up sway of millimetres about a head at rest [V,3]; `clip` with the codes that drive it.

    expressions [V,3,K]: the head's. Poses about those of the clip, in every direction, stand for its training.
    """
    generator = torch.Generator().manual_seed(seed)
    R, t = clip.R.repeat(20, 1, 1), clip.t.repeat(20, 1)
    R = matrix_from_axis_angle(0.1 * torch.randn(len(R), 3, generator=generator)) @ R
    sway = Sway.at_rest(neutral, expressions, R, t + 0.01 * torch.randn(t.shape, generator=generator))
    values = 2e-3 * torch.randn(sway.values.shape, generator=generator)
    avatar.sway = dataclasses.replace(sway, values=values.requires_grad_(True))
    return dataclasses.replace(clip, codes=dataclasses.replace(clip.codes, sway=sway.codes(clip.R, clip.t)))


def small_avatar(count: int = 40, expressions: int = 5, seed: int = 0) -> Avatar:
    """Random Gaussians: the last four are teeth (two upper, two lower), the others face with a half-empty mask."""
    generator = torch.Generator().manual_seed(seed)
    neutral = torch.randn(count, layout.WIDTH, generator=generator) * 0.1
    neutral[:, -1] = 0
    neutral[:, layout.QUATS.start] = 1
    neutral[:, layout.LOG_SCALES] -= 4
    mask = torch.rand(count, expressions, generator=generator) - 0.5
    mask[-4:] = 0
    differences = Differences.from_mask(mask.clamp_min(0))
    differences.values[:, :-1] = torch.randn(len(differences.values), layout.WIDTH - 1, generator=generator) * 0.01
    part = torch.full((count,), FACE, dtype=torch.uint8)
    part[-4:-2], part[-2:] = UPPER_TEETH, LOWER_TEETH
    triangle = torch.where(part == FACE, torch.arange(count) % 7, -1).int()
    binding = Binding(triangle, neutral[:, layout.MEANS].clone(), torch.rand(count, 3, generator=generator),
                      torch.rand(count, 7, generator=generator))
    code_range = torch.tensor([[-0.1], [0.6]]).repeat(1, expressions)
    return Avatar(neutral.requires_grad_(True), differences, binding, part, code_range)
