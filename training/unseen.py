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


def shown_pixels(posed: Posed, cameras: Cameras) -> Tensor:
    """How many pixels of each picture are each Gaussian's: its blending weights, summed over the picture, [B,N].

    A weight is the derivative of the pixel by the Gaussian's colour.
    """
    colors = posed.colors.detach().requires_grad_()
    image = render(replace(posed, colors=colors), cameras).image
    (weights,) = torch.autograd.grad(image[:, 0].sum(), colors)
    return weights[..., 0]


def most_shown(view: Callable[[Tensor], tuple[Posed, Cameras]], frames: Tensor, batch_size: int) -> Tensor:
    """The largest `shown_pixels` of each Gaussian in any of the frames [T]; [N]. view: poses a batch of frames.

    ValueError where there is no frame.
    """
    if not len(frames):
        raise ValueError("frames: wanted at least one")

    def in_batch(batch: Tensor) -> Tensor:
        with torch.no_grad():
            posed, cameras = view(batch)
        return shown_pixels(posed, cameras).amax(dim=0)

    return reduce(torch.maximum, map(in_batch, frames.split(batch_size)))
