"""Image metrics, each defined once: in its function's docstring for readers, in `DEFINITIONS` for reports.

All functions take batches, return one number a frame and accept a region mask. Images are float RGB in [0,1];
comparisons are made on black: `on_black` turns a ground-truth RGBA picture and a prediction into the compared pair.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
MSE_FLOOR = 1e-10  # caps PSNR at 100 dB, so that one identical frame does not make an average infinite
HEAD_ALPHA = 128  # ground-truth alpha (of 255) from which a pixel belongs to the head

DEFINITIONS: dict[str, str] = {
    "comparison": (
        "Ground truth rgb x alpha (rounded 8-bit values / 255) against the prediction rendered on black and clamped "
        "to [0, 1], in float32. Every score is computed for each frame, then averaged over frames."
    ),
    "psnr": (
        "-10 log10(MSE) in dB, the squared error pooled over all pixels and the three channels of a frame "
        f"(floored at {MSE_FLOOR:g}: at most 100 dB). In a region: pooled over the region's pixels."
    ),
    "ssim": (
        f"Structural similarity with an {SSIM_WINDOW}x{SSIM_WINDOW} Gaussian window of sigma {SSIM_SIGMA}, zero "
        "padding, K1 = 0.01, K2 = 0.03, range 1; the mean of the map over pixels and channels. In a region: the mean "
        "of the whole frame's map over the region's pixels."
    ),
    "lpips_alex": "LPIPS v0.1 with AlexNet features, on images scaled to [-1, 1]; lower is better.",
    "lpips_vgg": "LPIPS v0.1 with VGG16 features, on images scaled to [-1, 1]; lower is better.",
    "head": (
        f"Pixels whose ground-truth alpha is at least {HEAD_ALPHA} of 255. LPIPS: of both images with everything "
        "outside set to black."
    ),
    "face": "Convex outline of what is visible of the head model's face triangles, inside the head mask.",
    "eyes": "The same for the triangles of each eye.",
    "mouth": "The same for the triangles of the mouth, teeth and gap between the lips included.",
    "region_lpips": (
        "LPIPS of face, eyes and mouth: the mean over the region of the whole frame's LPIPS map (each layer's map "
        "resized bilinearly to the image, then summed); a small region alone would drown in black."
    ),
}


def on_black(rgba: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """The pair of images that all metrics compare.

    Args:
        rgba: uint8 [B,H,W,4], ground truth with straight (not premultiplied) colour.
        prediction: float [B,3,H,W], rendered on black.

    Returns:
        (target, prediction), float32 [B,3,H,W] in [0,1], on the prediction's device.
    """
    if rgba.dtype != torch.uint8 or rgba.ndim != 4 or rgba.shape[-1] != 4:
        raise ValueError(f"rgba: expected uint8 [B,H,W,4], got {rgba.dtype} {list(rgba.shape)}")
    values = rgba.to(prediction.device).permute(0, 3, 1, 2).float() / 255
    target = values[:, :3] * values[:, 3:]
    if target.shape != prediction.shape:
        raise ValueError(
            f"prediction: expected {list(target.shape)} like the ground truth, got {list(prediction.shape)}"
        )
    return target, prediction.float().clamp(0, 1)


def psnr(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of each frame in dB: -10 log10(mean squared error), peak 1.

    The squared error is pooled over pixels and channels, unlike a mean of per-channel PSNRs (which is larger or equal).

    Args:
        prediction, target: float [B,3,H,W] in [0,1].
        mask: bool [B,H,W]; only these pixels count.

    Returns:
        float32 [B]; NaN where the mask is empty; at most 100.
    """
    _check_pair(prediction, target, mask)
    error = (prediction.float() - target.float()).square().mean(dim=1)
    return -10 * masked_mean(error, mask).clamp_min(MSE_FLOOR).log10()


def ssim_map(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity at every pixel and channel, float32 [B,3,H,W] (Wang et al. 2004, eq. 13).

    Gaussian window of 11x11, sigma 1.5, applied with zero padding, so the map has the image's size and masks apply to
    it; this is also what the 3DGS family reports. Values are in [-1, 1].
    """
    _check_pair(prediction, target, None)
    x, y = prediction.float(), target.float()
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    return luminance * (2 * covariance + SSIM_C2) / (variance_x + variance_y + SSIM_C2)


def ssim(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of `ssim_map` over channels and pixels (those of `mask`, bool [B,H,W]): float32 [B], NaN where empty."""
    _check_pair(prediction, target, mask)
    return masked_mean(ssim_map(prediction, target).mean(dim=1), mask)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of `values` [B,H,W] over the pixels of `mask` (bool [B,H,W], or None for all): [B], NaN where empty."""
    if mask is None:
        return values.mean(dim=(1, 2))
    # The sum runs in double precision: 4k images have more pixels than float32 can add without loss.
    return ((values.double() * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2))).to(values.dtype)


@lru_cache(maxsize=8)
def _window(device: torch.device) -> Tensor:
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    return (weights / weights.sum()).float().to(device)


def _blur(images: Tensor) -> Tensor:
    channels, radius = images.shape[1], SSIM_WINDOW // 2
    row = _window(images.device).expand(channels, 1, 1, SSIM_WINDOW)
    blurred = F.conv2d(images, row, padding=(0, radius), groups=channels)
    return F.conv2d(blurred, row.transpose(2, 3), padding=(radius, 0), groups=channels)


def _check_pair(prediction: Tensor, target: Tensor, mask: Tensor | None) -> None:
    if prediction.ndim != 4 or prediction.shape[1] != 3 or prediction.shape != target.shape:
        raise ValueError(
            "prediction, target: expected two [B,3,H,W] of one size, "
            f"got {list(prediction.shape)}, {list(target.shape)}"
        )
    if mask is not None and (mask.dtype != torch.bool or mask.shape != prediction[:, 0].shape):
        raise ValueError(f"mask: expected bool {list(prediction[:, 0].shape)}, got {mask.dtype} {list(mask.shape)}")
