"""The familiar interface of 3D Gaussian splatting code on top of `rasterize`: one frame a call, 4x4 matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ._library import constants
from .rasterize import rasterize

SH_MAX_DEGREE = 3


class GaussianRasterizationSettings(NamedTuple):
    """Camera and options of one frame. `viewmatrix` and `projmatrix` are transposed (row-vector convention)."""

    image_height: int
    image_width: int
    tanfovx: float  # tangent of half the horizontal field of view
    tanfovy: float
    bg: Tensor  # [3]
    scale_modifier: float  # multiplies the scales
    viewmatrix: Tensor  # [4,4] world to camera, transposed
    projmatrix: Tensor  # [4,4] world to clip space (projection times world to camera), transposed
    sh_degree: int  # active degree, 0 to 3
    campos: Tensor  # [3]
    prefiltered: bool = False  # accepted and without effect
    debug: bool = False  # accepted and without effect
    antialiasing: bool = False  # only False


class GaussianRasterizer(nn.Module):
    """Rasterizes one set of Gaussians with fixed settings."""

    def __init__(self, raster_settings: GaussianRasterizationSettings):
        super().__init__()
        if raster_settings.antialiasing:
            raise ValueError("antialiasing: wanted False, the only supported value, got True")
        if not 0 <= raster_settings.sh_degree <= SH_MAX_DEGREE:
            raise ValueError(f"sh_degree: wanted 0 to {SH_MAX_DEGREE}, got {raster_settings.sh_degree}")
        self.raster_settings = raster_settings

    def markVisible(self, positions: Tensor) -> Tensor:  # noqa: N802  (the familiar name)
        """[N] bool: which of `positions` [N,3] lie in front of the near plane."""
        with torch.no_grad():
            view = self.raster_settings.viewmatrix
            return positions @ view[:3, 2] + view[3, 2] > constants().near_plane

    def forward(
        self,
        means3D: Tensor,
        means2D: Tensor | None,
        opacities: Tensor,
        shs: Tensor | None = None,
        colors_precomp: Tensor | None = None,
        scales: Tensor | None = None,
        rotations: Tensor | None = None,
        cov3D_precomp: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(color [3,H,W], radii [N] int32).

        means3D [N,3]; means2D [N,3] receives the screen-space gradient (NDC scale, third component 0), whatever its
        values; opacities [N,1]; either shs [N,(D+1)^2 or more,3] or colors_precomp [N,3]; scales [N,3] and rotations
        [N,4] (w,x,y,z), normalised by the caller. Raises ValueError for other combinations and for cov3D_precomp.
        """
        given = [tensor for tensor in (shs, colors_precomp) if tensor is not None]
        if len(given) != 1:
            raise ValueError(f"shs, colors_precomp: wanted exactly one of them, got {len(given)}")
        if cov3D_precomp is not None:
            raise ValueError("cov3D_precomp: wanted None, as covariances are not supported; give scales and rotations")
        if scales is None or rotations is None:
            raise ValueError("scales, rotations: wanted both, got None")
        settings = self.raster_settings
        colors = given[0] if shs is None else _colors(shs, means3D, settings)
        R, t, K = _camera(settings)
        gaussians = (means3D, rotations, scales * settings.scale_modifier, opacities.reshape(-1), colors)
        means, quats, sizes, flat_opacities, rgb = (tensor[None] for tensor in gaussians)
        output = rasterize(
            *(means, quats, sizes, flat_opacities, rgb, R[None], t[None], K[None]),
            width=settings.image_width,
            height=settings.image_height,
            background=settings.bg,
            means2d=None if means2D is None else means2D[None, :, :2],
        )
        return output.image[0], output.radii[0]


def _camera(settings: GaussianRasterizationSettings) -> tuple[Tensor, Tensor, Tensor]:
    """(R [3,3], t [3], K [3,3]): focal lengths from the fields of view, principal point from the projection."""
    view, full = settings.viewmatrix, settings.projmatrix
    R, t = view[:3, :3].T, view[3, :3]
    # full = projection @ [R | t], so projection[:2, :3] = full[:2, :3] @ R^T; its third column is 2 c / size - 1.
    centre = (full[:3, :2].T @ R.T)[:, 2]
    size = centre.new_tensor([settings.image_width, settings.image_height])
    focal = centre.new_tensor(
        [settings.image_width / (2 * settings.tanfovx), settings.image_height / (2 * settings.tanfovy)]
    )
    K = torch.cat([torch.diag(focal), ((centre + 1) * size / 2)[:, None]], 1)
    return R, t, torch.cat([K, K.new_tensor([[0.0, 0.0, 1.0]])])


def _colors(shs: Tensor, means: Tensor, settings: GaussianRasterizationSettings) -> Tensor:
    """[N,3]: max(0, 0.5 + spherical harmonics of the viewing direction) up to the active degree."""
    count = (settings.sh_degree + 1) ** 2
    if shs.ndim != 3 or shs.shape[1] < count or shs.shape[2] != 3:
        raise ValueError(
            f"shs: wanted shape [N,{count} or more,3] for degree {settings.sh_degree}, got {list(shs.shape)}"
        )
    directions = nn.functional.normalize(means - settings.campos, dim=-1)
    return (0.5 + torch.einsum("nj,njc->nc", sh_basis(directions, settings.sh_degree), shs[:, :count])).clamp(min=0)


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """[...,(degree+1)^2] real spherical harmonics of unit directions [...,3], as in native/include/sh.h."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    values = [torch.full_like(x, 0.28209479177387814)]
    values += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    values += [1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * zz - xx - yy)]
    values += [-1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy)]
    values += [-0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z]
    values += [-0.4570457994644658 * y * (4 * zz - xx - yy), 0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy)]
    values += [-0.4570457994644658 * x * (4 * zz - xx - yy), 1.445305721320277 * z * (xx - yy)]
    values += [-0.5900435899266435 * x * (xx - 3 * yy)]
    return torch.stack(values[: (degree + 1) ** 2], -1)
