"""Fitting the tracking of single frames to a finished avatar: how good it is where pose and codes are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import OptimizationSettings, RefinementSettings
from gaussian_renderer import render
from scene.avatar import Avatar
from training.losses import LossContext, picture_loss
from training.refinement import Refinement
from training.world import World

RATES, WEIGHTS = RefinementSettings(), OptimizationSettings()  # those of training


def fit_tracking(world: World, avatar: Avatar, sh_degree: int, frames: Sequence[int], steps: int, batch: int,
                 rates: RefinementSettings = RATES, weights: OptimizationSettings = WEIGHTS) -> World:
    """The world with pose and codes of `frames` fitted to their pictures by `steps` Adam steps each.

    The avatar does not change, and frames do not influence one another. A fit starts at the world's own tracking and is
    held near it by the same prior as in training. `rates`: learning rates and prior; `weights`: of the picture losses.
    """
    frozen = replace(avatar, neutral=avatar.neutral.detach(), differences=replace(avatar.differences, trainable=False))
    corrections = Refinement(world, rates, steps, None, alone=True)
    batches = [list(same[start:start + batch]) for same in world.dataset.by_size(frames)
               for start in range(0, len(same), batch)]
    for numbers in tqdm(batches, "fitting tracking", unit="batch"):
        index = torch.tensor(numbers, device=avatar.neutral.device)
        rgba = world.dataset.rgba_batch(numbers).to(index.device)
        for _ in range(steps):
            rows = corrections.rows(index)
            loss = _picture_loss(corrections, frozen, sh_degree, index, rows, rgba, weights)
            corrections.update(index, torch.autograd.grad(loss + corrections.prior(rows), rows)[0])
    return corrections.corrected_world()


def _picture_loss(corrections: Refinement, avatar: Avatar, sh_degree: int, index: Tensor, rows: Tensor, rgba: Tensor,
                  weights: OptimizationSettings) -> Tensor:
    world = corrections.world
    cameras, drive = corrections.view(index, rows)
    posed = avatar.pose(drive, sh_degree)
    output = render(posed, cameras, world.background_of(len(index)))
    return picture_loss(LossContext.of(world, index, output, posed, drive, rgba, avatar, weights))
