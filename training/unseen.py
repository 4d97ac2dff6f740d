"""Which Gaussians the pictures of training show, and how much of them.

What lies behind the skin, behind closed lips or under other Gaussians has no part in any picture, so nothing was learnt
about it; it costs time all the same, and where an expression beyond those of training uncovers it, it shows as specks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import torch
from blendshape_ops import Posed
from torch import Tensor

from gaussian_renderer import Cameras, render
from scene.avatar import Avatar
from scene.initialize import faces_backwards
from training.team import Team
from training.world import World

View = Callable[[Tensor], tuple[Posed, Cameras] | tuple[Posed, Cameras, Tensor]]
"""Frames [B] (int64) -> what `shown_pixels` takes of their pictures."""


def shown_pixels(posed: Posed, cameras: Cameras, windows: Tensor | None = None) -> Tensor:
    """How many pixels of each picture are each Gaussian's: its blending weights, summed over the picture, [B,N].

    A weight is the derivative of the pixel by the Gaussian's colour. windows [B,H,W]: what each pixel counts; None: 1.
    """
    colors = posed.colors.detach().requires_grad_()
    image = render(replace(posed, colors=colors), cameras).image[:, 0]
    # Of a sum: to check weights of its own, torch.autograd.grad would import sympy, which takes half a second.
    (weights,) = torch.autograd.grad((image if windows is None else image * windows).sum(), colors)
    return weights[..., 0]


def most_shown(view: View, frames: Tensor, batch_size: int) -> Tensor:
    """The largest `shown_pixels` of each Gaussian in any of the frames [T], which `view` poses in batches; [N].

    ValueError where there is no frame.
    """
    if not len(frames):
        raise ValueError("frames: wanted at least one")

    def in_batch(batch: Tensor) -> Tensor:
        with torch.no_grad():
            picture = view(batch)
        return shown_pixels(*picture).amax(dim=0)

    return reduce(torch.maximum, map(in_batch, frames.split(batch_size)))


def own_frames(frames: Tensor, team: Team) -> Tensor:
    """Those of frames [T] that this of several processes looks at: all where there are fewer than processes."""
    return frames[team.rank::team.size] if len(frames) >= team.size else frames


def seen_or_back(world: World, avatar: Avatar, view: View, least: float, batch_size: int, team: Team) -> Tensor:
    """Which Gaussians show at least `least` pixels of some training picture, or close the head from behind: bool [N].

    Of several processes each looks at a part of the frames; all of them call it.
    """
    device, triangle = avatar.neutral.device, avatar.binding.triangle
    some = own_frames(torch.from_numpy(world.dataset.train_indices), team)
    most = [most_shown(view, torch.from_numpy(part).to(device), batch_size)
            for part in world.dataset.by_size(some.numpy())]
    shown = team.largest(torch.stack(most).amax(dim=0))
    back = faces_backwards(world.rig.posed.neutral.to(device), world.head.faces.to(device))
    return (shown >= least) | ((triangle >= 0) & back[triangle.clamp(min=0).long()])
