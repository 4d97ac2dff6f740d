"""The losses of a training step as a named dictionary of weighted terms (reference section 6.1)."""

from __future__ import annotations

from collections.abc import Callable

from blendshape_ops import MEANS, image_loss, target_image
from torch import Tensor

from arguments import OptimizationSettings
from gaussian_renderer import RenderOutput
from scene.avatar import Avatar
from scene.mouth import Cylinder

Perceptual = Callable[[Tensor, Tensor], Tensor]


def picture_loss(output: RenderOutput, rgba: Tensor, background: Tensor | None, whole: bool,
                 settings: OptimizationSettings) -> Tensor:
    """L1, D-SSIM and alpha term of a rendering, weighted and summed; arguments as `weighted_losses`."""
    return image_loss(output.image, output.alpha, rgba, background, composite=not whole,
                      l1_weight=1 - settings.lambda_dssim, dssim_weight=settings.lambda_dssim,
                      alpha_weight=settings.alpha_loss)[0]


def weighted_losses(
    output: RenderOutput, rgba: Tensor, background: Tensor | None, whole: bool, avatar: Avatar,
    cylinder: Cylinder, settings: OptimizationSettings, perceptual: Perceptual | None,
) -> dict[str, Tensor]:
    """Weighted scalar terms by name; their sum is what is minimised.

    output: the rendering of the batch; rgba: uint8 targets [B,H,W,4]; background: colour [3] that both stand on (None:
    black); whole: the target is the photograph itself, not colour * alpha over the background; perceptual(a, b): LPIPS
    [B] of [B,3,H,W] pictures in [0,1], or None.
    """
    terms = {"image": picture_loss(output, rgba, background, whole, settings)}
    if perceptual is not None:
        target, _ = target_image(rgba, background, not whole, output.image.dtype)
        terms["lpips"] = settings.lpips_loss * perceptual(output.image, target).mean()
    if settings.isotropy_loss > 0:
        terms["isotropy"] = settings.isotropy_loss * avatar.isotropy()
    if settings.cylinder_loss > 0:
        rows, weights = avatar.teeth_rows()
        distances = cylinder.squared_distances(avatar.neutral[:, MEANS].index_select(0, rows))
        terms["cylinder"] = settings.cylinder_loss * (distances * weights).sum()
    return terms
