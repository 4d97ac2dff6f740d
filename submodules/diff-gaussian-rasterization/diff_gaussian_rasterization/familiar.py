"""The familiar interface of 3D Gaussian splatting code on top of `rasterize`: one frame a call, 4x4 matrices.

Two generations of it are in use, and code of either runs as it is. The settings tell them apart: code of the first
(2023) knows no `antialiasing` and unpacks two results; code of the second (since October 2024) gives it and unpacks
three.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ._library import constants
from .definition import compensation, screen_axes
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
    prefiltered: bool = False  # accepted and without effect: what cannot be seen is left out in any case
    debug: bool = False  # wait for the GPU after the picture, so that its errors are raised there
    antialiasing: bool | None = None  # opacities compensated for dilation; None: code of the first generation


class GaussianRasterizer(nn.Module):
    """Rasterizes one set of Gaussians with fixed settings."""

    def __init__(self, raster_settings: GaussianRasterizationSettings):
        super().__init__()
        if not 0 <= raster_settings.sh_degree <= SH_MAX_DEGREE:
            raise ValueError(f"sh_degree: wanted 0 to {SH_MAX_DEGREE}, got {raster_settings.sh_degree}")
        self.raster_settings = raster_settings

    def markVisible(self, positions: Tensor) -> Tensor:  # noqa: N802  (the familiar name)
        """[N] bool: which of `positions` [N,3] lie in front of the near plane."""
        return mark_visible(positions, self.raster_settings.viewmatrix)

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
        dc: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """(color [3,H,W], radii [N] int32), and inverse depth [1,H,W] where the settings give `antialiasing`.

        means3D [N,3]; means2D [N,3] receives the screen-space gradient (NDC scale, third component 0), whatever its
        values; opacities [N,1]; either shs [N,(D+1)^2 or more,3] or colors_precomp [N,3]; scales [N,3] and rotations
        [N,4] (w,x,y,z), normalised by the caller. With dc [N,1,3], shs holds the coefficients after the first.
        Inverse depth is sum_i T_i a_i / z_i with weights as in the picture and z_i the depth of a mean along the view
        (0 where nothing is drawn). All but radii is differentiable. Raises ValueError for other combinations and for
        cov3D_precomp.
        """
        settings = self.raster_settings
        if cov3D_precomp is not None:
            raise ValueError("cov3D_precomp: wanted None, as covariances are not supported; give scales and rotations")
        if scales is None or rotations is None:
            raise ValueError("scales, rotations: wanted both, got None")
        colors = _colors(_joined(dc, shs), colors_precomp, means3D, settings)
        R, t, K = _camera(settings)
        points, in_front = _view_points(means3D, R, t)
        scales, opacities = scales * settings.scale_modifier, opacities.reshape(-1)
        if settings.antialiasing:
            opacities = opacities * _compensation(points, in_front, rotations, scales, R, K, settings)
        screen = None if means2D is None else means2D[None, :, :2]
        camera, size = (R[None], t[None], K[None]), (settings.image_width, settings.image_height)
        gaussians = (means3D[None], rotations[None], scales[None], opacities[None])
        output = rasterize(*gaussians, colors[None], *camera, *size, background=settings.bg, means2d=screen)
        depth = None
        if settings.antialiasing is not None:
            # A second picture, whose backward pass runs only where a loss uses it.
            inverse = (torch.where(in_front, 1 / points[:, 2], 0)[:, None]).expand(-1, 3)[None]
            depth = rasterize(*gaussians, inverse, *camera, *size, means2d=screen).image[0, :1]
        if settings.debug and means3D.is_cuda:
            torch.cuda.synchronize(means3D.device)
        image, radii = output.image[0], output.radii[0]
        return (image, radii) if depth is None else (image, radii, depth)


def rasterize_gaussians(
    means3D: Tensor,
    means2D: Tensor | None,
    sh: Tensor | None,
    colors_precomp: Tensor | None,
    opacities: Tensor,
    scales: Tensor | None,
    rotations: Tensor | None,
    cov3Ds_precomp: Tensor | None,
    raster_settings: GaussianRasterizationSettings,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """`GaussianRasterizer` as a function; what is not given is None or, as some code has it, `torch.Tensor([])`."""
    optional = (sh, colors_precomp, scales, rotations, cov3Ds_precomp)
    shs, colors, sizes, turns, covariances = (None if t is None or t.shape == (0,) else t for t in optional)
    rasterizer = GaussianRasterizer(raster_settings)
    results: tuple[Tensor, Tensor] = rasterizer(means3D, means2D, opacities, shs, colors, sizes, turns, covariances)
    return results


@torch.no_grad()
def mark_visible(positions: Tensor, viewmatrix: Tensor) -> Tensor:
    """[N] bool: which of `positions` [N,3] lie in front of the near plane of `viewmatrix` [4,4] (transposed)."""
    return positions @ viewmatrix[:3, 2] + viewmatrix[3, 2] > constants().near_plane


def _view_points(means: Tensor, R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """[N,3] in the camera's frame, and [N] which of them can be drawn; the others lie at (0, 0, 1)."""
    points = means @ R.T + t
    in_front = (points[:, 2] > constants().near_plane) & means.detach().isfinite().all(-1)
    return torch.where(in_front[:, None], points, points.new_tensor([0.0, 0.0, 1.0])), in_front


def _compensation(points: Tensor, in_front: Tensor, rotations: Tensor, scales: Tensor, R: Tensor, K: Tensor,
                  settings: GaussianRasterizationSettings) -> Tensor:
    """[N] factors of the opacities, 1 for what is not drawn: it must not turn gradients into NaN."""
    good = in_front & torch.cat([rotations, scales], -1).detach().isfinite().all(-1)
    turns, sizes = (torch.where(good[:, None], tensor, 1) for tensor in (rotations, scales))
    axes = screen_axes(R, K, (settings.image_width, settings.image_height), points, turns, sizes)
    return torch.where(good, compensation(axes), 1)


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


def _joined(dc: Tensor | None, shs: Tensor | None) -> Tensor | None:
    """All coefficients [N,.,3], where the first ones come apart from the others."""
    if dc is None:
        return shs
    return dc if shs is None else torch.cat([dc, shs], 1)


def _colors(shs: Tensor | None, given: Tensor | None, means: Tensor, settings: GaussianRasterizationSettings) -> Tensor:
    """[N,3]: as given, or max(0, 0.5 + spherical harmonics of the viewing direction) up to the active degree."""
    if (shs is None) == (given is None):
        raise ValueError(f"shs, colors_precomp: wanted exactly one of them, got {0 if shs is None else 2}")
    if shs is None:
        assert given is not None
        return given
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
