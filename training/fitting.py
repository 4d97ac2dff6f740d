"""Fitting the tracking of single frames to a finished avatar: how good it is where pose and codes are right."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from arguments import OptimizationSettings, RefinementSettings
from gaussian_renderer import render
from scene.avatar import Avatar
from training.losses import LossContext, Perceptual, lpips, picture_loss
from training.refinement import Refinement
from training.world import World
from utils.lpips import MetricUnavailable, lpips_loss

log = logging.getLogger(__name__)

RATES = RefinementSettings()  # those of training
# So are these, but for LPIPS: numbers that say where things are cannot make up texture for it, and it sees edges that
# do not overlap yet.
WEIGHTS = OptimizationSettings(lpips_loss=0.3)


def lpips_of_fits(folder: Path | None, world: World) -> Perceptual | None:
    """The network that `fit_tracking` takes, for the pictures of `world` and on its device.

    None, and a warning, where its weights are not to be had. folder: as in `load_lpips`.
    """
    smallest = min(min(size) for size in world.dataset.sizes)
    try:
        return lpips_loss("alex", folder, smallest, world.cameras.R.device)
    except MetricUnavailable as error:
        log.warning("Poses and codes are estimated without LPIPS, which makes them more exact: %s", error)
        return None


def fit_tracking(world: World, avatar: Avatar, sh_degree: int, frames: Sequence[int], steps: int, batch: int,
                 rates: RefinementSettings = RATES, weights: OptimizationSettings = WEIGHTS,
                 perceptual: Perceptual | None = None) -> World:
    """The world with pose and codes of `frames` fitted to their pictures by `steps` Adam steps each.

    The avatar does not change, and frames do not influence one another. A fit starts at the world's own tracking and is
    held near it by the same prior as in training. The pose's codes of a sway are fitted as well. `rates`: learning
    rates and prior; `weights`: of the picture losses; `perceptual`: LPIPS, as in `LossContext`, or None.
    """
    frozen = replace(avatar, neutral=avatar.neutral.detach(), differences=replace(avatar.differences, trainable=False))
    corrections = Refinement(world, rates, steps, None, alone=True, sway=avatar.sway)
    batches = [list(same[start:start + batch]) for same in world.dataset.by_size(frames)
               for start in range(0, len(same), batch)]
    for numbers in tqdm(batches, "fitting tracking", unit="batch"):
        index = torch.tensor(numbers, device=avatar.neutral.device)
        rgba = world.dataset.rgba_batch(numbers).to(index.device)
        for _ in range(steps):
            rows = corrections.rows(index)
            loss = _picture_loss(corrections, frozen, sh_degree, index, rows, rgba, weights, perceptual)
            corrections.update(index, torch.autograd.grad(loss + corrections.prior(rows), rows)[0])
    return corrections.corrected_world()


def _picture_loss(corrections: Refinement, avatar: Avatar, sh_degree: int, index: Tensor, rows: Tensor, rgba: Tensor,
                  weights: OptimizationSettings, perceptual: Perceptual | None) -> Tensor:
    world = corrections.world
    cameras, drive = corrections.view(index, rows)
    posed = avatar.pose(drive, sh_degree)
    output = render(posed, cameras, world.background_of(len(index)))
    context = LossContext.of(world, index, output, posed, drive, rgba, avatar, weights, perceptual)
    loss = picture_loss(context)
    if perceptual is not None and weights.lpips_loss:
        loss = loss + weights.lpips_loss * lpips(context, every=1)
    return loss
