"""Posed Gaussians + cameras + background -> picture. Knows nothing of the scene."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from diff_gaussian_rasterization import DensifyStats, RasterizeOutput, rasterize
from torch import Tensor

__all__ = ["Cameras", "DensifyStats", "RenderOutput", "Splats", "render"]

RenderOutput = RasterizeOutput


class Splats(Protocol):
    """Posed Gaussians of a batch: what `blend_pose_color` returns, or anything with these tensors."""

    @property
    def means(self) -> Tensor: ...  # [B,N,3] metres
    @property
    def quats(self) -> Tensor: ...  # [B,N,4] w,x,y,z, unit
    @property
    def scales(self) -> Tensor: ...  # [B,N,3] metres
    @property
    def opacities(self) -> Tensor: ...  # [B,N] in [0,1]
    @property
    def colors(self) -> Tensor: ...  # [B,N,3] RGB, >= 0


@dataclass(frozen=True)
class Cameras:
    """Cameras of a batch: world-to-camera R [B,3,3], t [B,3]; pixel intrinsics K [B,3,3]; one image size in pixels."""

    R: Tensor
    t: Tensor
    K: Tensor
    width: int
    height: int

    @property
    def centers(self) -> Tensor:
        """Camera positions in the world [B,3]: -R^T t."""
        return -(self.R.transpose(-1, -2) @ self.t[..., None])[..., 0]

    def to(self, device: torch.device) -> Cameras:
        """The same cameras on another device."""
        return replace(self, R=self.R.to(device), t=self.t.to(device), K=self.K.to(device))


def render(splats: Splats, cameras: Cameras, background: Tensor | None = None,
           stats: DensifyStats | None = None) -> RenderOutput:
    """Draw a batch of posed Gaussians.

    background: None (black), [3], [B,3] or [B,3,H,W]. `stats` is updated in place by the backward pass.
    Returns image [B,3,H,W] (not clamped above), alpha [B,H,W], radii [B,N] (pixels, 0 = not drawn).
    """
    return rasterize(splats.means, splats.quats, splats.scales, splats.opacities, splats.colors,
                     cameras.R, cameras.t, cameras.K, cameras.width, cameras.height,
                     background=background, stats=stats)
