"""Gaussians that no picture of training shows: how they are found, and that a run loses them and nothing else."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from blendshape_ops import Posed

from arguments import OptimizationSettings
from gaussian_renderer import Cameras, render
from scene.checkpoint import newest_checkpoint
from scene.densify import is_last_pruning_step, keep_only
from scene.initialize import faces_backwards
from tests.avatars import small_avatar
from tests.refinement_scene import true_avatar, true_world
from tests.test_refinement import train_settings
from training.trainer import Trainer
from training.unseen import most_shown, shown_pixels

SIZE = 24
LAST = 8  # step of the pruning below


def looking_ahead(frames: int) -> Cameras:
    K = torch.tensor([[30.0, 0, SIZE / 2], [0, 30.0, SIZE / 2], [0, 0, 1]])
    return Cameras(torch.eye(3).expand(frames, 3, 3), torch.zeros(frames, 3), K.expand(frames, 3, 3), SIZE, SIZE)


def cloud(frames: int, count: int) -> Posed:
    generator = torch.Generator().manual_seed(3)
    means = torch.rand(frames, count, 3, generator=generator) * 0.6 + torch.tensor([-0.3, -0.3, 1.0])
    quats = torch.nn.functional.normalize(torch.randn(frames, count, 4, generator=generator), dim=-1)
    return Posed(means, quats, torch.rand(frames, count, 3, generator=generator) * 0.1 + 0.01,
                 torch.rand(frames, count, generator=generator), torch.rand(frames, count, 3, generator=generator))


def test_shown_pixels_are_the_weights_of_blending() -> None:
    """Of Gaussians that are black but for a white one, the picture is that one's weights."""
    posed, cameras = cloud(2, 12), looking_ahead(2)
    got = shown_pixels(posed, cameras)
    for n in range(12):
        colors = torch.zeros(2, 12, 3)
        colors[:, n] = 1
        wanted = render(replace(posed, colors=colors), cameras).image[:, 1].sum(dim=(1, 2))
        torch.testing.assert_close(got[:, n], wanted, rtol=1e-5, atol=1e-5)  # sums of 576 pixels in single precision
    # Every pixel's weights sum up to its alpha.
    torch.testing.assert_close(got.sum(dim=1), render(posed, cameras).alpha.sum(dim=(1, 2)), rtol=1e-5, atol=1e-5)


def test_one_frame_that_shows_it_is_enough() -> None:
    """A Gaussian behind an opaque wall in one frame and beside it in another; whatever the batch."""
    posed = cloud(3, 2)
    posed.means[:] = torch.tensor([[0.0, 0, 1.0], [0.0, 0, 2.0]])
    posed.means[2, 1, 0] = 0.6
    posed.scales[:] = torch.tensor([[0.3, 0.3, 0.01], [0.02, 0.02, 0.02]])
    posed.opacities[:] = 0.99
    posed.quats[:] = torch.tensor([1.0, 0, 0, 0])

    def view(frames: torch.Tensor) -> tuple[Posed, Cameras]:
        return (Posed(*(getattr(posed, name)[frames] for name in ("means", "quats", "scales", "opacities", "colors"))),
                looking_ahead(len(frames)))

    hidden = most_shown(view, torch.tensor([0, 1]), 8)
    assert hidden[0] > 50
    assert hidden[1] < 0.1  # a hundredth of its 3.5 pixels
    for batch in (1, 2, 8):
        assert most_shown(view, torch.arange(3), batch)[1] > 0.3
    with pytest.raises(ValueError, match="frames: wanted at least one"):
        most_shown(view, torch.arange(0), 2)


def test_when_it_is_done() -> None:
    settings = OptimizationSettings(iterations=4000, densify_until_iter=15_000)  # a tenth of the schedule
    assert [i for i in range(1, 4001) if is_last_pruning_step(settings, i)] == [1500]
    for off in (replace(settings, prune_unseen=0), replace(settings, densify=False), replace(settings, iterations=10)):
        assert sum(is_last_pruning_step(off, i) for i in range(1, off.iterations + 1)) == (off.iterations == 10)


def test_rows_that_are_kept_stay_as_they_are() -> None:
    avatar, before = small_avatar(), small_avatar()
    keep = torch.arange(avatar.count) % 3 != 0
    rows = keep_only(avatar, keep)
    assert (rows.cloned, rows.split, rows.pruned) == (0, 0, int((~keep).sum()))
    assert not rows.fresh.any()
    assert torch.equal(avatar.neutral, before.neutral[keep])
    assert torch.equal(avatar.differences.dense(5), before.differences.dense(5)[keep])
    assert torch.equal(avatar.part, before.part[keep])


def pruning(folder: Path, prune_unseen: float) -> Trainer:
    """A trainer at the true avatar whose eighth step prunes; no densification before."""
    settings = train_settings(folder, refine_from_iter=3_000)
    optimization = replace(settings.optimization, densify=True, densify_from_iter=10**6, densify_until_iter=1000 * LAST,
                           prune_unseen=prune_unseen)
    trainer = Trainer(replace(settings, optimization=optimization), true_world(), torch.device("cpu"))
    trainer.avatar = true_avatar()
    trainer._renew_optimizer()
    return trainer


def test_a_run_loses_what_it_never_saw(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = pruning(tmp_path, 0.5)
    for _ in range(LAST - 1):
        assert mine.step().rows is None
    before, frames = mine.avatar, torch.from_numpy(mine.world.dataset.train_indices)
    pictures = mine.render_frames(frames.tolist()).image
    with caplog.at_level(logging.INFO):
        rows = mine.step().rows
    assert rows is not None
    assert 0 < rows.pruned < before.count
    assert mine.avatar.count == len(rows.index) == len(mine.optimizer.neutral_exp_avg) == len(mine.stats.count)
    assert f"{rows.pruned} Gaussians that no training picture shows were removed, {mine.avatar.count} are left" in \
        caplog.text
    world = mine.world
    back = faces_backwards(world.rig.posed.neutral, world.head.faces)[mine.avatar.binding.triangle.clamp(min=0).long()]
    shown = most_shown(lambda batch: mine._pose(batch), frames, 2)
    assert (shown[~back] >= 0.4).all()  # what others hid is shown at least as much as before, but for the update
    assert (shown[back] < 0.5).any(), "the back of the head stays, though nobody saw it"
    # Half a pixel of a few Gaussians, spread over the picture, and one update.
    assert (mine.render_frames(frames.tolist()).image - pictures).abs().mean() < 0.02
    assert mine.step().rows is None


def test_a_run_resumed_before_it_prunes_the_same(tmp_path: Path) -> None:
    whole = pruning(tmp_path, 0.5)
    for iteration in range(1, LAST + 3):
        whole.step()
        if iteration == LAST - 2:
            whole.save(tmp_path / "checkpoints", 0)
    resumed = pruning(tmp_path, 0.5)
    resumed.restore(newest_checkpoint(tmp_path))
    for _ in range(4):
        resumed.step()
    assert torch.equal(whole.avatar.neutral, resumed.avatar.neutral)


def test_nothing_is_lost_where_all_is_kept(tmp_path: Path) -> None:
    mine = pruning(tmp_path, 0)
    count = mine.avatar.count
    for _ in range(LAST + 1):
        mine.step()
    assert mine.avatar.count == count
