"""Colours for an avatar that has not been trained: each Gaussian takes what the pictures show where it lies."""

from __future__ import annotations

import math

import numpy as np
import torch
from blendshape_ops import OPACITY, SH, SH_C0

from scene.avatar import FACE, Avatar
from training.world import World

PICTURES = 8
FACING = 0.3  # cosine between the ray and the way out of the head, below which a Gaussian is not looked at
OPAQUE = 0.95  # alpha that a pixel must have to give its colour
MOST = 0.8  # share of the pictures that look at a Gaussian which must be opaque there; else it stands beside the head
PAINTED_OPACITY = 0.5  # of Gaussians whose colour is known; others keep the little that training begins with


@torch.no_grad()
def paint(avatar: Avatar, world: World) -> int:
    """Give the face's Gaussians the mean colours of some training pictures, and return how many got one.

    Without it the first steps of training pass before anybody is recognised.
    """
    train = world.dataset.train_indices
    device = avatar.neutral.device
    total = torch.zeros(avatar.count, 5, device=device)
    for frame in np.unique(np.linspace(0, len(train) - 1, PICTURES).round().astype(int)):
        number = int(train[frame])
        index = torch.tensor([number], device=device)
        cameras = world.cameras_of(index)
        means = avatar.pose(world.rig.drive(index, cameras.centers), 0).means[0]
        rgba = world.dataset.rgba_batch([number])[0].to(device).float() / 255
        total += _seen(means, cameras.R[0], cameras.t[0], cameras.K[0], rgba)
    painted = (total[:, 3] > 0) & (total[:, 3] >= MOST * total[:, 4]) & (avatar.part == FACE)
    colour = total[painted, :3] / total[painted, 3:4]
    avatar.neutral[painted, SH.start:SH.start + 3] = (colour - 0.5) / SH_C0
    avatar.neutral[painted, OPACITY] = math.log(PAINTED_OPACITY / (1 - PAINTED_OPACITY))
    return int(painted.sum())


def _seen(means: torch.Tensor, R: torch.Tensor, t: torch.Tensor, K: torch.Tensor, rgba: torch.Tensor) -> torch.Tensor:
    """Of each Gaussian [N,5] in one picture [H,W,4]: colour and 1 where it is opaque, else 0; 1 if it is looked at."""
    camera = means @ R.T + t
    pixels = (camera @ K.T)[:, :2] / camera[:, 2:].clamp_min(1e-3)
    outwards = torch.nn.functional.normalize(means - means.mean(0), dim=1) @ R.T
    facing = -(outwards * torch.nn.functional.normalize(camera, dim=1)).sum(1)
    height, width = rgba.shape[:2]
    column, row = pixels.floor().long().unbind(1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (camera[:, 2] > 0) & (facing > FACING)
    found = rgba[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    opaque = (inside & (found[:, 3] >= OPAQUE)).float()[:, None]
    return torch.cat([found[:, :3] * opaque, opaque, inside.float()[:, None]], 1)
