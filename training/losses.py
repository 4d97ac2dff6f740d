"""The losses of a training step: a table of named terms, each a function of one record (docs/method.md, section 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blendshape_ops import MEANS, Drive, Posed, image_loss, target_image
from torch import Tensor

from arguments import OptimizationSettings
from gaussian_renderer import RenderOutput
from scene.avatar import Avatar
from scene.mouth import Cylinder

if TYPE_CHECKING:
    from training.mouth_inside import Hidden
    from training.world import World

Perceptual = Callable[[Tensor, Tensor], Tensor]
LPIPS_EVERY = 4  # of a batch's frames one in so many: that of all takes as long as the rest of a step


@dataclass(frozen=True, eq=False)
class LossContext:
    """What a loss may look at: B frames of a step.

    frames: int64 [B], numbers in the data set. output: their rendering. posed: the Gaussians that it shows. drive:
    codes, bones and camera centres that moved them. rgba: uint8 targets [B,H,W,4]. background: colour [3] that both
    stand on (None: black). whole: the target is the photograph itself, not colour * alpha over the background.
    avatar: its tables, attributes and networks, as leaves of this step. cylinder: of the mouth. hidden: what training
    hides in the mouth, or None. perceptual(a, b): LPIPS [B] of [B,3,H,W] pictures in [0,1], or None.
    """

    frames: Tensor
    output: RenderOutput
    posed: Posed
    drive: Drive
    rgba: Tensor
    background: Tensor | None
    whole: bool
    avatar: Avatar
    cylinder: Cylinder
    settings: OptimizationSettings
    perceptual: Perceptual | None = None
    hidden: Hidden | None = None

    @staticmethod
    def of(world: World, frames: Tensor, output: RenderOutput, posed: Posed, drive: Drive, rgba: Tensor,
           avatar: Avatar, settings: OptimizationSettings, perceptual: Perceptual | None = None,
           hidden: Hidden | None = None) -> LossContext:
        """The record of a batch of the data set of `world`."""
        return LossContext(frames, output, posed, drive, rgba, world.flat_background, world.whole, avatar,
                           world.mouth.cylinder, settings, perceptual, hidden)


def picture_loss(context: LossContext) -> Tensor:
    """L1, D-SSIM and alpha term of a rendering, weighted and summed."""
    settings = context.settings
    return image_loss(context.output.image, context.output.alpha, context.rgba, context.background,
                      composite=not context.whole, l1_weight=1 - settings.lambda_dssim,
                      dssim_weight=settings.lambda_dssim, alpha_weight=settings.alpha_loss)[0]


def lpips(context: LossContext, every: int = LPIPS_EVERY) -> Tensor:
    """Mean LPIPS of one frame in `every`. ValueError where the run has not loaded its network."""
    if context.perceptual is None:
        raise ValueError("--lpips_loss: has a weight, but no network was loaded")
    image = context.output.image[::every]
    target, _ = target_image(context.rgba[::every], context.background, not context.whole, image.dtype)
    return context.perceptual(image, target).mean()


def isotropy(context: LossContext) -> Tensor:
    """Mean squared excess of the axis ratios."""
    return context.avatar.isotropy()


def cylinder(context: LossContext) -> Tensor:
    """Squared distance (m^2) of the teeth to the mouth cylinder: mean of the upper plus mean of the lower."""
    rows, weights = context.avatar.teeth_rows()
    means = context.avatar.neutral[:, MEANS].index_select(0, rows)
    return (context.cylinder.squared_distances(means) * weights).sum()


def dark_mouth(context: LossContext) -> Tensor:
    """How light that is which training hides in the mouth, as a mean over a picture's pixels."""
    if context.hidden is None:
        return context.avatar.neutral.new_zeros(())
    height, width = context.rgba.shape[1:3]
    return context.hidden.lightness(context.avatar.neutral) / (height * width)


LOSSES: dict[str, tuple[str, Callable[[LossContext], Tensor]]] = {
    "lpips": ("lpips_loss", lpips),
    "isotropy": ("isotropy_loss", isotropy),
    "cylinder": ("cylinder_loss", cylinder),
    "dark_mouth": ("dark_mouth_loss", dark_mouth),
}
"""Name of the term -> the field of OptimizationSettings that holds its weight, and a scalar, differentiable function of
the context: a mean over its frames, or one that does not depend on frames (several processes may share a batch). Not
called where the weight is 0. It neither waits for the device nor has shapes that depend on values."""


def weighted_losses(context: LossContext) -> dict[str, Tensor]:
    """Weighted scalar terms by name, "image" and those of `LOSSES`; their sum is what is minimised."""
    terms = {"image": picture_loss(context)}
    for name, (setting, term) in LOSSES.items():
        weight = getattr(context.settings, setting)
        if weight:
            terms[name] = weight * term(context)
    return terms
