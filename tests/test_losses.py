"""The loss dictionary: its terms, weights and targets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from blendshape_ops import target_image as composite_target

from arguments import DataSettings, ModelSettings, OptimizationSettings, RunSettings, TrainSettings
from gaussian_renderer import RenderOutput
from scene.mouth import Cylinder
from tests.avatars import small_avatar
from tests.subjects import write_subject
from train import with_lpips
from training.losses import LOSSES, LPIPS_EVERY, LossContext, lpips, weighted_losses
from training.trainer import Trainer
from training.world import open_world

CYLINDER = Cylinder(torch.zeros(3), 10.0, 10.0)


def rgba(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (2, 20, 24, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def target_image(picture: torch.Tensor, background: torch.Tensor | None, whole: bool) -> torch.Tensor:
    return composite_target(picture, background, not whole, torch.float32)[0]


def context(output: RenderOutput, target: torch.Tensor, background: torch.Tensor | None = None, whole: bool = False,
            **more: Any) -> LossContext:
    """A context for losses that look at neither posed Gaussians nor drive."""
    unused = cast(Any, None)
    given: dict[str, Any] = {"avatar": small_avatar(), "cylinder": CYLINDER, "settings": OptimizationSettings()} | more
    return LossContext(torch.arange(len(target)), output, unused, unused, target, background, whole, **given)


def output_like(image: torch.Tensor, alpha: torch.Tensor) -> RenderOutput:
    return RenderOutput(image, alpha, torch.zeros(2, 1, dtype=torch.int32))


def test_target_composites_on_the_background() -> None:
    picture = torch.tensor([[[[255, 0, 51, 102]]]], dtype=torch.uint8)
    assert torch.allclose(target_image(picture, None, False).flatten(), torch.tensor([0.4, 0.0, 0.08]))
    white = torch.ones(3)
    assert torch.allclose(target_image(picture, white, False).flatten(), torch.tensor([1.0, 0.6, 0.68]))
    assert torch.allclose(target_image(picture, white, True).flatten(), torch.tensor([1.0, 0.0, 0.2]))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("background", [None, torch.tensor([0.2, 0.5, 1.0])])
def test_perfect_rendering_costs_nothing(whole: bool, background: torch.Tensor | None) -> None:
    target = rgba()
    output = output_like(target_image(target, background, whole), target[..., 3].float() / 255)
    losses = weighted_losses(context(output, target, background, whole))
    assert set(losses) == {"image", "cylinder"}
    assert float(losses["image"]) == pytest.approx(0, abs=1e-6)  # float32 rounding of a mean of differences
    assert float(losses["cylinder"].detach()) == 0


def test_terms_have_their_weights() -> None:
    target = rgba()
    image, alpha = target_image(target, None, False), target[..., 3].float() / 255
    only_alpha = dataclasses.replace(OptimizationSettings(), alpha_loss=3.0, cylinder_loss=0)
    losses = weighted_losses(context(output_like(image, alpha + 0.5), target, settings=only_alpha))
    assert float(losses["image"]) == pytest.approx(3 * 0.25, rel=1e-5)
    only_l1 = dataclasses.replace(OptimizationSettings(), lambda_dssim=0.0, cylinder_loss=0)
    losses = weighted_losses(context(output_like(image + 0.1, alpha), target, settings=only_l1))
    assert float(losses["image"]) == pytest.approx(0.1, rel=1e-5)


def test_optional_terms_appear_with_their_weight_and_reach_the_parameters() -> None:
    target, avatar = rgba(), small_avatar()
    image, alpha = target_image(target, None, False), target[..., 3].float() / 255
    settings = dataclasses.replace(OptimizationSettings(), lpips_loss=0.5, isotropy_loss=2.0)
    tight = Cylinder(torch.zeros(3), 1e-3, 1e-3)
    losses = weighted_losses(context(output_like(image, alpha), target, avatar=avatar, cylinder=tight,
                                     settings=settings, perceptual=lambda a, b: (a - b).abs().mean(dim=(1, 2, 3)) + 1))
    assert float(losses["lpips"]) == pytest.approx(0.5)
    assert float(losses["isotropy"].detach()) == pytest.approx(2 * float(avatar.isotropy().detach()))
    sum(losses.values()).backward()  # type: ignore[union-attr]
    gradient = avatar.neutral.grad
    assert gradient is not None
    teeth = gradient[avatar.part > 0, :3]
    assert bool((teeth.abs().sum(dim=1) > 0).all())
    assert float(gradient[avatar.part == 0, :3].abs().max()) == 0


def test_a_weight_without_its_network_is_an_error() -> None:
    target = rgba()
    output = output_like(target_image(target, None, False), target[..., 3].float() / 255)
    with pytest.raises(ValueError, match="--lpips_loss: has a weight, but no network was loaded"):
        weighted_losses(context(output, target, settings=OptimizationSettings(lpips_loss=1)))


def test_every_loss_has_a_weight_among_the_settings() -> None:
    names = {item.name for item in dataclasses.fields(OptimizationSettings)}
    assert {setting for setting, _ in LOSSES.values()} <= names


def test_lpips_counts_from_its_iteration_on(tmp_path: Path) -> None:
    subject = write_subject(tmp_path, 4, 32)
    optimization = OptimizationSettings(iterations=4, batch_size=1, schedule_scale=0.5, densify=False, lpips_loss=1.0,
                                        lpips_from_iter=4)
    settings = TrainSettings(DataSettings(subject, test_frames=1), RunSettings(Path("unused")),
                             ModelSettings(num_face_gaussians=100, num_teeth_gaussians=10), optimization)
    cpu = torch.device("cpu")
    trainer = Trainer(settings, open_world(settings.data, settings.model, 0, cpu), cpu,
                      perceptual=lambda image, target: (image - target).abs().mean(dim=(1, 2, 3)))
    assert ["lpips" in trainer.step().losses for _ in range(4)] == [False, False, True, True]  # 4 stands for 2 here


def test_lpips_looks_at_some_frames_of_a_batch() -> None:
    target = rgba().repeat(3, 1, 1, 1)[:LPIPS_EVERY + 1]
    image, alpha = target_image(target, None, False), target[..., 3].float() / 255
    seen: list[float] = []

    def perceptual(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.extend((a - image[[0, LPIPS_EVERY]]).abs().amax(dim=(1, 2, 3)).tolist())
        return (a - b).abs().mean(dim=(1, 2, 3))

    settings = OptimizationSettings(lpips_loss=1.0)
    assert float(lpips(context(output_like(image, alpha), target, settings=settings, perceptual=perceptual))) == 0
    assert seen == [0, 0]


def run_settings(weight: float | None, weights: Path) -> TrainSettings:
    return TrainSettings(DataSettings(Path("unused")), RunSettings(Path("unused")),
                         optimization=OptimizationSettings(lpips_loss=weight, lpips_weights=weights))


@pytest.mark.parametrize(("smallest", "reason"), [(512, "holds none of"), (30, "images of 30 pixels are too small")])
def test_a_network_that_cannot_be_had_is_an_error_only_where_it_was_asked_for(
        tmp_path: Path, caplog: pytest.LogCaptureFixture, smallest: int, reason: str) -> None:
    with pytest.raises(ValueError, match=f"--lpips_loss: .*{reason}"):
        with_lpips(run_settings(0.05, tmp_path), smallest, torch.device("cuda"))
    settings, network = with_lpips(run_settings(None, tmp_path), smallest, torch.device("cuda"))
    assert (settings.optimization.lpips_loss, network) == (0, None)
    assert reason in caplog.text


def test_lpips_costs_nothing_on_a_cpu_unless_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings, network = with_lpips(run_settings(None, tmp_path), 512, torch.device("cpu"))
    assert (settings.optimization.lpips_loss, network, caplog.text) == (0, None, "")
