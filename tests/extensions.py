"""An attribute and a network for tests, with the settings that switch them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from blendshape_ops import Drive, Posed
from torch import nn

from arguments import ModelSettings, OptimizationSettings
from scene import extensions
from scene.avatar import Avatar
from scene.extensions import ExtraAttribute, Network


@dataclass(frozen=True)
class ExtendedOptimization(OptimizationSettings):
    """The settings of a run that learns both."""

    gain_lr: float = 0.01
    tint_lr: float = 0.01


def brighten(posed: Posed, avatar: Avatar, drive: Drive) -> Posed:
    """Multiply colours by each Gaussian's gain."""
    colors = posed.colors * avatar.attributes["gain"][:, 0, None]
    return Posed(posed.means, posed.quats, posed.scales, posed.opacities, colors)


class Tint(Network):
    """A linear layer from codes to a colour that all Gaussians get; one of its parameters is not used, one is fixed."""

    rate = "tint_lr"

    def __init__(self, expressions: int) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(expressions, 3), nn.Parameter(torch.ones(2))
        self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)

    @classmethod
    def options(cls, avatar: Avatar, model: ModelSettings) -> dict[str, Any]:
        return {"expressions": avatar.code_range.shape[1]}

    def forward(self, posed: Posed, avatar: Avatar, drive: Drive) -> Posed:
        colors = (posed.colors + self.fixed * self.layer(drive.beta)[:, None]).clamp_min(0)
        return Posed(posed.means, posed.quats, posed.scales, posed.opacities, colors)


def add_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter both into the tables for the time of a test."""
    monkeypatch.setitem(extensions.ATTRIBUTES, "gain", ExtraAttribute(1, 1.0, "gain_lr", brighten))
    monkeypatch.setitem(extensions.NETWORKS, "tint", Tint)
