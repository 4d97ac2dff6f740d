"""Clone, split and prune: decided on tensors, applied as one row selection.

Rules of the published method (docs/method.md, section 9) without its defects: the decision is taken after the optimizer
step, so no update is lost, and the screen-size rule, which never fired, is not there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import blendshape_ops as layout
import torch
from torch import Tensor

from arguments import OptimizationSettings
from flame.rotations import matrix_from_quat
from gaussian_renderer import DensifyStats
from scene.avatar import FACE, Avatar

SPLIT_CHILDREN = 2
SHORTEST_INTERVAL = 5  # steps: one that changes the rows costs a GPU as much time as several that do not
SPLIT_SHRINK = 0.8 * SPLIT_CHILDREN


@dataclass(frozen=True)
class RowSelection:
    """New rows in terms of old: `index` [N'] is the old row each new one copies, `fresh` [N'] which are new."""

    index: Tensor
    fresh: Tensor
    cloned: int
    split: int
    pruned: int


def is_densify_step(settings: OptimizationSettings, iteration: int) -> bool:
    """Whether Gaussians are cloned, split and pruned after this iteration (counted from 1)."""
    scale = settings.scale
    interval = max(SHORTEST_INTERVAL, round(settings.densification_interval * scale))
    return (settings.densify and settings.densify_from_iter * scale < iteration < settings.densify_until_iter * scale
            and iteration % interval == 0)


def is_last_pruning_step(settings: OptimizationSettings, iteration: int) -> bool:
    """Whether Gaussians that were never seen are removed after this iteration: once, when densification has ended."""
    return (settings.densify and settings.prune_unseen > 0
            and iteration == math.ceil(settings.densify_until_iter * settings.scale))


def collects_stats(settings: OptimizationSettings, iteration: int) -> bool:
    """Whether screen-space gradients of this iteration are wanted."""
    return settings.densify and iteration < settings.densify_until_iter * settings.scale


def _wants_more(avatar: Avatar, stats: DensifyStats, settings: OptimizationSettings) -> Tensor:
    """Bool [N]: Gaussians whose mean screen-space gradient reaches their threshold, limited by max_gaussians."""
    # The loss is a mean over the batch, the thresholds are for one picture.
    gradient = torch.where(stats.count > 0, stats.grad_sum / stats.count.clamp(min=1), 0.0) * settings.batch_size
    threshold = torch.where(avatar.part == FACE, settings.densify_grad_threshold, settings.densify_grad_threshold_teeth)
    wanted = gradient >= threshold
    room = max(0, settings.max_gaussians - avatar.count)
    if int(wanted.sum()) <= room:
        return wanted
    # Every wanted row adds exactly one Gaussian, so the room goes to the largest gradients.
    ranked = torch.argsort(torch.where(wanted, gradient / threshold, -1.0), descending=True, stable=True)
    limited = torch.zeros_like(wanted)
    limited[ranked[:room]] = True
    return limited


@torch.no_grad()
def densify(avatar: Avatar, stats: DensifyStats, settings: OptimizationSettings, iteration: int,
            generator: torch.Generator) -> RowSelection:
    """Clone small and split large Gaussians with large screen-space gradients, remove faint and huge ones.

    Changes `avatar` in place; the caller applies the returned selection to the optimizer and renews the statistics.
    Split children are drawn from the parent's own distribution and shrunk by 1.6; clones are exact copies. ValueError,
    `avatar` unchanged, where no Gaussian would be left; it names the setting.
    """
    rows = avatar.neutral.detach()
    largest = rows[:, layout.LOG_SCALES].amax(dim=1).exp()
    wanted = _wants_more(avatar, stats, settings)
    split = wanted & (largest > settings.percent_dense)
    clone = wanted & ~split

    old = torch.arange(avatar.count, device=rows.device)
    index = torch.cat([old[~split], old[clone], old[split].repeat(SPLIT_CHILDREN)])
    fresh = torch.arange(len(index), device=rows.device) >= int((~split).sum())
    is_child = torch.arange(len(index), device=rows.device) >= int((~split).sum() + clone.sum())

    values = rows[index]
    values[is_child] = _split_children(values[is_child], generator)
    keep = _visible(values, settings, iteration)
    avatar.select_rows(index[keep], values[keep])
    return RowSelection(index[keep], fresh[keep], int(clone.sum()), int(split.sum()), int((~keep).sum()))


@torch.no_grad()
def keep_only(avatar: Avatar, keep: Tensor) -> RowSelection:
    """Remove the Gaussians that are not in `keep` (bool [N]), in place; the rest as for `densify`.

    ValueError where none is kept: no training picture shows any.
    """
    if not bool(keep.any()):
        raise ValueError(f"--prune_unseen: would remove all {len(keep)} Gaussians, because none shows as much in any "
                         "training picture; the value is too large, or the pictures show no head (--check_only)")
    index = torch.nonzero(keep)[:, 0]
    avatar.select_rows(index, avatar.neutral.detach()[index])
    return RowSelection(index, torch.zeros_like(keep[index]), 0, 0, len(keep) - len(index))


def _visible(values: Tensor, settings: OptimizationSettings, iteration: int) -> Tensor:
    """Bool [N]: rows [N,60] that are not too faint and, later in training, not too large. ValueError if all are."""
    opacity = torch.sigmoid(values[:, layout.OPACITY])[:, 0]
    largest = values[:, layout.LOG_SCALES].amax(dim=1).exp()
    keep = opacity >= settings.prune_opacity
    if not bool(keep.any()):
        raise ValueError(f"--prune_opacity {settings.prune_opacity:g}: would remove all {len(keep)} Gaussians after "
                         f"iteration {iteration}, the largest opacity is {float(opacity.max()):.3g}; wanted a smaller "
                         "value, or pictures and masks that show a head")
    if iteration > settings.prune_scale_from_iter * settings.scale:
        keep &= largest <= settings.prune_scale
    if not bool(keep.any()):
        raise ValueError(f"--prune_scale {settings.prune_scale:g}: would remove all Gaussians after iteration "
                         f"{iteration}, the smallest is {float(largest.min()):.3g} m large; wanted a larger value")
    return keep


def _split_children(parents: Tensor, generator: torch.Generator) -> Tensor:
    """Rows [n,60] moved by a draw from each parent's Gaussian and shrunk."""
    children = parents.clone()
    scales = parents[:, layout.LOG_SCALES].exp()
    noise = torch.randn(scales.shape, generator=generator).to(scales)
    rotation = matrix_from_quat(torch.nn.functional.normalize(parents[:, layout.QUATS], dim=1))
    children[:, layout.MEANS] += (rotation @ (noise * scales)[..., None])[..., 0]
    children[:, layout.LOG_SCALES] -= math.log(SPLIT_SHRINK)
    return children
