"""What the rasterizer computes, in plain torch: the definition that C++ and CUDA are tested against.

Written to be read. Autograd gives every gradient. Memory grows with Gaussians times pixels, tile by tile, so it suits
tests and small pictures in double precision.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ._library import Scene, constants

SMALLEST_COMPENSATION = 1e-3


class Splats2D(NamedTuple):
    """The visible Gaussians of one frame, front to back; M of them."""

    gaussian: Tensor  # [M] index into the frame's Gaussians
    mean: Tensor  # [M,2] pixels
    covariance: Tensor  # [M,2,2] pixels^2, dilated
    opacity: Tensor  # [M]
    color: Tensor  # [M,3]
    extent: Tensor  # [M,2] half size in pixels of the box around alpha >= alpha_min


def quats_to_matrices(quats: Tensor) -> Tensor:
    """[...,4] (w,x,y,z) -> [...,3,3]; the polynomial of a unit quaternion, applied to quaternions of any length."""
    w, x, y, z = quats.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _is_usable(scene: Scene, frame: int) -> Tensor:
    """[N] whether a Gaussian can be seen at all: everything finite, before the near plane, not transparent."""
    parts = (scene.means, scene.quats, scene.scales, scene.opacities[..., None], scene.colors)
    finite = torch.cat([part[frame] for part in parts], -1).isfinite().all(-1)
    depth = (scene.means[frame] @ scene.R[frame].T + scene.t[frame])[:, 2]
    return finite & (depth > constants().near_plane) & (scene.opacities[frame] >= constants().alpha_min)


def screen_axes(
    R: Tensor, K: Tensor, size: tuple[int, int], points: Tensor, quats: Tensor, scales: Tensor
) -> Tensor:
    """[M,2,3] = U R Q S: the axes of M Gaussians in pixels, U the Jacobian of the projection at the clamped direction.

    R, K [3,3] of one camera; size: width and height of its picture; points [M,3] in its frame; quats [M,4]; scales
    [M,3].
    """
    c = constants()
    inverse_z = 1 / points[:, 2]
    limit_x = c.jacobian_limit * size[0] / (2 * K[0, 0])
    limit_y = c.jacobian_limit * size[1] / (2 * K[1, 1])
    u = torch.minimum(torch.maximum(points[:, 0] * inverse_z, -limit_x), limit_x)
    v = torch.minimum(torch.maximum(points[:, 1] * inverse_z, -limit_y), limit_y)
    zero = torch.zeros_like(u)
    ratios = torch.stack([inverse_z, zero, -u * inverse_z, zero, inverse_z, -v * inverse_z], -1).reshape(-1, 2, 3)
    return K[:2, :2] @ ratios @ R @ (quats_to_matrices(quats) * scales[:, None, :])


def compensation(axes: Tensor) -> Tensor:
    """[M] sqrt(det(A A^T) / det(A A^T + dilation)) of `screen_axes` A [M,2,3]: times it, opacity keeps a splat's mass.

    Dilation makes thin splats wider than they are. Below SMALLEST_COMPENSATION, where no splat of opacity 1 is drawn,
    the factor stays there, because the gradient of the root grows without limit.
    """
    dilation, (x, y) = constants().dilation, axes.unbind(-2)
    own = torch.linalg.cross(x, y).square().sum(-1)  # Cauchy-Binet: never negative, however thin the splat
    dilated = own + dilation * (axes.square().sum((-1, -2)) + dilation)
    return (own / dilated).clamp(min=SMALLEST_COMPENSATION**2).sqrt()


def _covariance(scene: Scene, frame: int, index: Tensor, points: Tensor) -> Tensor:
    """[M,2,2]: U R (Q S)(Q S)^T R^T U^T + dilation."""
    size, gaussians = (scene.width, scene.height), (scene.quats[frame, index], scene.scales[frame, index])
    M = screen_axes(scene.R[frame], scene.K[frame], size, points, *gaussians)
    return M @ M.transpose(-1, -2) + constants().dilation * torch.eye(2, dtype=M.dtype, device=M.device)


def project(scene: Scene, frame: int) -> Splats2D:
    """The splats of one frame that touch its pixels, sorted by depth (equal depths by index)."""
    index = _is_usable(scene, frame).nonzero()[:, 0]
    points = scene.means[frame, index] @ scene.R[frame].T + scene.t[frame]
    order = torch.argsort(points[:, 2].detach(), stable=True)
    index, points = index[order], points[order]
    K = scene.K[frame]
    mean = points[:, :2] / points[:, 2:] @ K[:2, :2].T + K[:2, 2] - 0.5
    covariance = _covariance(scene, frame, index, points)
    opacity = scene.opacities[frame, index]
    reach = 2 * torch.log(opacity.detach() / constants().alpha_min)
    extent = torch.sqrt(reach[:, None] * covariance.detach().diagonal(dim1=-2, dim2=-1))
    return Splats2D(index, mean, covariance, opacity, scene.colors[frame, index], extent)


def radii(splats: Splats2D, scene: Scene) -> Tensor:
    """[N] int32: 3 standard deviations of the longer axis, in pixels, rounded up; 0 for what touches no pixel."""
    c = constants()
    size = splats.mean.new_tensor([scene.width - 1, scene.height - 1])
    touches = ((splats.mean + splats.extent >= 0) & (splats.mean - splats.extent <= size)).all(-1)
    middle = splats.covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    discriminant = (middle**2 - torch.linalg.det(splats.covariance)).clamp(min=c.discriminant_min)
    radius = torch.ceil(c.radius_sigmas * torch.sqrt(middle + torch.sqrt(discriminant)))
    result = torch.zeros(scene.gaussians, dtype=torch.int32, device=radius.device)
    result[splats.gaussian] = torch.where(touches, radius, torch.zeros_like(radius)).to(torch.int32)
    return result


def composite(splats: Splats2D, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Colours without background [P,3] and final transmittance [P] at `pixels` [P,2] (x,y): front-to-back blending."""
    c = constants()
    offset = pixels[:, None] - splats.mean  # [P,M,2]
    power = -0.5 * torch.einsum("pmi,mij,pmj->pm", offset, torch.linalg.inv(splats.covariance), offset)
    alpha = (splats.opacity * torch.exp(power)).clamp(max=c.alpha_max)
    alpha = torch.where(alpha >= c.alpha_min, alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, dim=1)
    # Transmittance never rises, so "not yet below the minimum" is true for a run of splats from the front.
    alpha = torch.where(after >= c.transmittance_min, alpha, torch.zeros_like(alpha))
    first = alpha.new_ones(len(pixels), 1)
    light = torch.cat([first, torch.cumprod(1 - alpha, dim=1)], 1)  # [P,M+1] before each splat and after the last
    return (light[:, :-1] * alpha) @ splats.color, light[:, -1]


def _near(splats: Splats2D, low: Tensor, high: Tensor) -> Splats2D:
    """The splats whose box of alpha >= alpha_min reaches the rectangle low..high; the others cannot touch it."""
    keep = ((splats.mean + splats.extent >= low) & (splats.mean - splats.extent <= high)).all(-1)
    return Splats2D(*(field[keep] for field in splats))


def _render_frame(splats: Splats2D, width: int, height: int) -> tuple[Tensor, Tensor]:
    """([3,H,W] without background, [H,W] final transmittance), tile by tile."""
    tile, bands = constants().tile, []
    columns = torch.arange(width, dtype=splats.mean.dtype, device=splats.mean.device)
    rows = torch.arange(height, dtype=splats.mean.dtype, device=splats.mean.device)
    for ys in rows.split(tile):
        parts = []
        for xs in columns.split(tile):
            pixels = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).reshape(-1, 2)
            color, light = composite(_near(splats, pixels[0], pixels[-1]), pixels)
            parts.append(torch.cat([color, light[:, None]], 1).T.reshape(4, len(ys), len(xs)))
        bands.append(torch.cat(parts, 2))
    picture = torch.cat(bands, 1)
    return picture[:3], picture[3]


def rasterize_torch(scene: Scene, means2d: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(image [B,3,H,W], alpha [B,H,W], radii [B,N] int32) of a scene.

    The gradient of `means2d` [B,N,2], whose values do not matter, is the screen-space gradient in NDC scale (0.5 W,
    0.5 H pixels); here it includes the part that comes through the alpha output.
    """
    images, alphas, all_radii = [], [], []
    for frame in range(scene.batch):
        splats = project(scene, frame)
        if means2d is not None:
            scale = splats.mean.new_tensor([0.5 * scene.width, 0.5 * scene.height])
            nudge = (means2d - means2d.detach())[frame, splats.gaussian] * scale
            splats = splats._replace(mean=splats.mean + nudge)
        color, light = _render_frame(splats, scene.width, scene.height)
        images.append(color + light * _background(scene, frame))
        alphas.append(1 - light)
        all_radii.append(radii(splats, scene))
    return torch.stack(images), torch.stack(alphas), torch.stack(all_radii)


def _background(scene: Scene, frame: int) -> Tensor | float:
    """Something that broadcasts against [3,H,W]."""
    if scene.background is None:
        return 0.0
    values = scene.background if scene.background.ndim == 1 else scene.background[frame]
    return values if values.ndim == 3 else values[:, None, None]
