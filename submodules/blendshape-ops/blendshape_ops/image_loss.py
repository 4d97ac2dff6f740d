"""Image loss: L1 + D-SSIM + squared alpha error against uint8 RGBA targets."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _native, backends
from .native_image_loss import ImageLoss
from .tables import require

SSIM_WINDOW = 11
_native.mirror("blendshape_ops", SSIM_TAPS=SSIM_WINDOW)
SSIM_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def image_loss(
    image: Tensor,
    alpha: Tensor,
    target: Tensor,
    background: Tensor | None,
    composite: bool,
    l1_weight: float,
    dssim_weight: float,
    alpha_weight: float,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Weighted image loss of a batch, differentiable in `image` and `alpha`.

    `image` [B, 3, H, W] and `alpha` [B, H, W] floating; `target` [B, H, W, 4] uint8 RGBA, straight alpha, same device.
    With `composite` the image is compared with rgb a + background (1 - a) (`background` [3], None = black), without
    with rgb alone. Returns (total, terms): total = l1_weight l1 + dssim_weight dssim + alpha_weight alpha, and terms
    [3] = (l1, dssim, alpha) unweighted and detached, where l1 = mean |I - G|, dssim = 1 - mean SSIM(I, G) (Wang et
    al. 2004: 11x11 Gaussian, sigma 1.5, zero padding, C1 = 1e-4, C2 = 9e-4), alpha = mean (alpha - a)^2.

    `backend`: "torch" is the definition, "cpp" and "cuda" the fused ones, "auto" the fused one of the tensors' device.
    Raises ValueError or TypeError for shapes, dtypes or a backend that do not fit.
    """
    _check(image, alpha, target, background)
    chosen = backends.resolve(backend, image)
    if chosen == "torch":
        return image_loss_torch(image, alpha, target, background, composite, l1_weight, dssim_weight, alpha_weight)
    options = {
        "composite": composite,
        "l1_weight": l1_weight,
        "dssim_weight": dssim_weight,
        "alpha_weight": alpha_weight,
        "c1": SSIM_C1,
        "c2": SSIM_C2,
        "window": ssim_window(image.dtype, image.device),
    }
    total, terms = ImageLoss.apply(image, alpha, target, background, options, chosen)
    return total, terms


def image_loss_torch(
    image: Tensor,
    alpha: Tensor,
    target: Tensor,
    background: Tensor | None,
    composite: bool,
    l1_weight: float,
    dssim_weight: float,
    alpha_weight: float,
) -> tuple[Tensor, Tensor]:
    """The definition of `image_loss`."""
    wanted, wanted_alpha = target_image(target, background, composite, image.dtype)
    l1 = (image - wanted).abs().mean()
    dssim = 1 - ssim_map(image, wanted).mean()
    alpha_error = (alpha - wanted_alpha).square().mean()
    total = l1_weight * l1 + dssim_weight * dssim + alpha_weight * alpha_error
    return total, torch.stack([l1, dssim, alpha_error]).detach()


def target_image(
    target: Tensor, background: Tensor | None, composite: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(colours [B, 3, H, W], alpha [B, H, W]) in [0, 1] of uint8 RGBA [B, H, W, 4], composited if asked."""
    scaled = target.permute(0, 3, 1, 2).to(dtype) / 255
    rgb, alpha = scaled[:, :3], scaled[:, 3]
    if composite:
        rgb = rgb * alpha[:, None]
        if background is not None:
            rgb = rgb + background.view(3, 1, 1) * (1 - alpha[:, None])
    return rgb, alpha


@cache
def ssim_window(dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """The normalised 1D Gaussian [11]; its outer product with itself is the SSIM window. Shared: do not change it.

    Made once for each dtype and device, because moving it to a GPU makes the host wait.
    """
    distance = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.exp(-(distance**2) / (2 * SSIM_SIGMA**2))
    return (weights / weights.sum()).to(device=device, dtype=dtype)


def ssim_map(image: Tensor, wanted: Tensor) -> Tensor:
    """Structural similarity [B, 3, H, W] of two images [B, 3, H, W], zero padding."""
    window = ssim_window(image.dtype, image.device)

    def blur(planes: Tensor) -> Tensor:
        columns = F.conv2d(planes.flatten(0, 1)[:, None], window.view(1, 1, 1, -1), padding=(0, SSIM_WINDOW // 2))
        rows = F.conv2d(columns, window.view(1, 1, -1, 1), padding=(SSIM_WINDOW // 2, 0))
        return rows.view_as(planes)

    mean_i, mean_g = blur(image), blur(wanted)
    var_i = blur(image * image) - mean_i * mean_i
    var_g = blur(wanted * wanted) - mean_g * mean_g
    covariance = blur(image * wanted) - mean_i * mean_g
    numerator = (2 * mean_i * mean_g + SSIM_C1) * (2 * covariance + SSIM_C2)
    return numerator / ((mean_i * mean_i + mean_g * mean_g + SSIM_C1) * (var_i + var_g + SSIM_C2))


def _check(image: Tensor, alpha: Tensor, target: Tensor, background: Tensor | None) -> None:
    require(image, "image", (None, 3, None, None))
    batch, _, height, width = image.shape
    if image.numel() == 0:
        raise ValueError(f"image: wanted at least one pixel, got shape {list(image.shape)}")
    if image.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"image: wanted float32 or float64, got {image.dtype}")
    require(alpha, "alpha", (batch, height, width), image.dtype)
    require(target, "target", (batch, height, width, 4), torch.uint8)
    if background is not None:
        require(background, "background", (3,), image.dtype)
    for name, tensor in (("alpha", alpha), ("target", target), ("background", background)):
        if tensor is not None and tensor.device != image.device:
            raise ValueError(f"{name}: wanted device {image.device} (that of image), got {tensor.device}")
