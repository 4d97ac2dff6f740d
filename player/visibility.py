"""How much of each Gaussian pictures show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from flame.rotations import matrix_from_axis_angle
from gaussian_renderer import Cameras, render
from player.player import Player
from scene.rig import Codes

View: TypeAlias = tuple[Codes, Cameras]
"""One frame: codes [1,...] and a camera, on the player's device."""


def spread_views(player: Player, frames: int, swing: float, middle: Tensor) -> list[View]:
    """At most `frames` frames that lie apart in the clip, each from its camera and from `swing` radians to both sides.

    middle [3]: the point that the cameras swing around, metres. ValueError for a clip without frames.
    """
    clip = player.clip
    if not len(clip):
        raise ValueError(f"{player.name}: its clip has no frame to look at")
    found: list[View] = []
    for frame in torch.linspace(0, len(clip) - 1, min(frames, len(clip))).round().long().tolist():
        codes, cameras = player.codes_of(frame), player.cameras_of(frame)
        found.extend((codes, swung(cameras, angle, middle.to(player.device))) for angle in (0.0, -swing, swing))
    return found


def swung(cameras: Cameras, angle: float, middle: Tensor) -> Cameras:
    """Cameras turned by `angle` (radians) about the vertical axis of their pictures through `middle` [3]."""
    turn = matrix_from_axis_angle(torch.tensor([[0.0, angle, 0.0]], device=middle.device))
    place = cameras.R @ middle + cameras.t
    t = (turn @ (cameras.t - place)[..., None])[..., 0] + place
    return replace(cameras, R=turn @ cameras.R, t=t)


def seen_shares(player: Player, views: Sequence[View]) -> Tensor:
    """[N] pixels that each Gaussian makes up in all views together: the derivative of their sum by its colour."""
    seen = torch.zeros(player.avatar.count, device=player.device)
    for codes, cameras in views:
        posed = player.pose(codes, cameras.centers)
        colors = posed.colors.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            image = render(replace(posed, colors=colors), cameras).image
            seen += torch.autograd.grad(image[:, 0].sum(), colors)[0].sum(dim=0)[:, 0]
    return seen
