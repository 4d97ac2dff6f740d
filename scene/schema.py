"""The learnable attributes of a Gaussian: one row each.

The columns are those of the packed parameter table (`blendshape_ops`), shared by the neutral table [N,60] and the
expression differences [P,60]. Native code, half precision and exports know those columns; a new attribute lives in a
tensor of its own instead, see scene/extensions.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import blendshape_ops as layout
import torch
from torch import Tensor

from arguments import OptimizationSettings


@dataclass(frozen=True)
class Attribute:
    """One learnable attribute.

    `neutral_rate` and `difference_rate` name the settings that hold the learning rates, each with a factor;
    `decays` says whether `basis_lr_decay` applies to the differences.
    """

    name: str
    columns: slice
    neutral_rate: tuple[str, float]
    difference_rate: tuple[str, float]
    decays: bool


_SH = layout.SH
_SH_DC = slice(_SH.start, _SH.start + 3)
_SH_REST = slice(_SH.start + 3, _SH.stop)

ATTRIBUTES = (
    Attribute("means", layout.MEANS, ("position", 1.0), ("difference_position_lr", 1.0), False),
    Attribute("quats", layout.QUATS, ("rotation_lr", 1.0), ("difference_rotation_lr", 1.0), True),
    Attribute("log_scales", layout.LOG_SCALES, ("scaling_lr", 1.0), ("difference_scaling_lr", 1.0), True),
    Attribute("opacity", layout.OPACITY, ("opacity_lr", 1.0), ("difference_opacity_lr", 1.0), True),
    Attribute("sh_dc", _SH_DC, ("feature_lr", 1.0), ("difference_feature_lr", 1.0), True),
    Attribute("sh_rest", _SH_REST, ("feature_lr", 1 / 20), ("difference_feature_lr", 1.0), True),
)


def position_learning_rate(settings: OptimizationSettings, iteration: int) -> float:
    """Metres a step: log-linear from `position_lr_init` to `position_lr_final`, constant after the last step."""
    last = settings.position_lr_max_steps * settings.scale
    progress = min(max(iteration / last, 0.0), 1.0) if last > 0 else 1.0
    start, end = math.log(settings.position_lr_init), math.log(settings.position_lr_final)
    return math.exp((1 - progress) * start + progress * end)


def learning_rates(settings: OptimizationSettings, iteration: int) -> tuple[Tensor, Tensor]:
    """Per-column learning rates ([60] neutral, [60] differences; float32, CPU) at an iteration."""
    neutral, difference = torch.zeros(layout.WIDTH), torch.zeros(layout.WIDTH)
    for row in ATTRIBUTES:
        name, factor = row.neutral_rate
        rate = position_learning_rate(settings, iteration) if name == "position" else getattr(settings, name)
        neutral[row.columns] = rate * factor
        name, factor = row.difference_rate
        difference[row.columns] = getattr(settings, name) * factor * (settings.basis_lr_decay if row.decays else 1.0)
    return neutral, difference


def active_sh_degree(settings: OptimizationSettings, iteration: int, highest: int) -> int:
    """Degree in use at an iteration: 0 at first, one more every `sh_interval` iterations, up to `highest`."""
    interval = settings.sh_interval * settings.scale
    return highest if interval <= 0 else min(highest, int(iteration / interval))
