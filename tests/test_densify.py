"""Cloning, splitting and pruning: who is chosen, what children inherit, and what stays untouched."""

from __future__ import annotations

import dataclasses
import itertools

import blendshape_ops as layout
import pytest
import torch
from blendshape_ops import FactoredAdam

from arguments import OptimizationSettings
from gaussian_renderer import DensifyStats
from scene.avatar import Avatar
from scene.densify import SPLIT_SHRINK, collects_stats, densify, is_densify_step, keep_only
from tests.avatars import small_avatar

SETTINGS = OptimizationSettings(batch_size=1, schedule_scale=1, densify_grad_threshold=1e-3)


def stats_of(avatar: Avatar, chosen: list[int], value: float = 1.0) -> DensifyStats:
    stats = DensifyStats.zeros(avatar.count, torch.device("cpu"))
    stats.count[:] = 4
    stats.grad_sum[chosen] = 4 * value
    return stats


def sized(avatar: Avatar, rows: list[int], scale: float) -> Avatar:
    avatar.neutral.data[rows, layout.LOG_SCALES] = float(torch.tensor(scale).log())
    return avatar


def run(avatar: Avatar, stats: DensifyStats, iteration: int = 600, **changes: float):
    settings = dataclasses.replace(SETTINGS, **changes)  # type: ignore[arg-type]
    return densify(avatar, stats, settings, iteration, torch.Generator().manual_seed(0))


def test_clone_copies_everything() -> None:
    avatar = sized(small_avatar(), [3], 0.005)
    before = small_avatar()
    dense = avatar.differences.dense(5)
    rows = run(avatar, stats_of(avatar, [3]))
    assert (rows.cloned, rows.split, rows.pruned) == (1, 0, 0)
    assert avatar.count == 41
    assert rows.index[-1] == 3
    assert rows.fresh.tolist() == [False] * 40 + [True]
    assert torch.equal(avatar.neutral[40], avatar.neutral[3])
    assert torch.equal(avatar.differences.dense(5)[40], dense[3])
    assert torch.equal(avatar.binding.anchor[40], before.binding.anchor[3])
    assert avatar.part[40] == before.part[3]


def test_split_replaces_the_parent_by_two_smaller_ones_around_it() -> None:
    avatar = sized(small_avatar(), [5], 0.02)
    parent = avatar.neutral[5].detach().clone()
    rows = run(avatar, stats_of(avatar, [5]))
    assert (rows.cloned, rows.split) == (0, 1)
    assert avatar.count == 41
    assert 5 not in rows.index[:39].tolist()
    assert rows.index[39:].tolist() == [5, 5]
    children = avatar.neutral[39:].detach()
    expected = parent[layout.LOG_SCALES] - torch.tensor(SPLIT_SHRINK).log()
    assert torch.allclose(children[:, layout.LOG_SCALES], expected.expand(2, 3))
    distance = (children[:, layout.MEANS] - parent[layout.MEANS]).norm(dim=1)
    # drawn from a Gaussian of 2 cm: within five standard deviations, and not in place
    assert bool(((distance > 0) & (distance < 0.1 * 3**0.5)).all())
    keep = slice(layout.OPACITY.start, layout.WIDTH)
    assert torch.equal(children[:, keep], parent[keep].expand(2, -1))


def test_thresholds_differ_between_face_and_teeth() -> None:
    avatar = sized(small_avatar(), list(range(40)), 0.005)
    between = (SETTINGS.densify_grad_threshold + SETTINGS.densify_grad_threshold_teeth) / 2
    rows = run(avatar, stats_of(avatar, list(range(40)), between))
    assert rows.cloned == 4  # the four teeth only
    assert set(rows.index[40:].tolist()) == {36, 37, 38, 39}


def test_thresholds_are_for_one_picture_whatever_the_batch() -> None:
    """The loss is a mean over the batch, so each picture's gradient is that much smaller."""
    for gradient, batch, grown in ((0.9e-3, 1, 0), (0.9e-3 / 4, 4, 0), (1.1e-3 / 4, 4, 1), (1.1e-3, 1, 1)):
        avatar = sized(small_avatar(), [3], 0.005)
        before = avatar.count
        run(avatar, stats_of(avatar, [3], gradient), batch_size=batch)
        assert avatar.count == before + grown


def test_unseen_gaussians_are_left_alone() -> None:
    avatar = small_avatar()
    rows = run(avatar, DensifyStats.zeros(40, torch.device("cpu")))
    assert rows.cloned == rows.split == rows.pruned == 0
    assert torch.equal(avatar.neutral, small_avatar().neutral)


def test_faint_and_late_huge_gaussians_are_pruned() -> None:
    avatar = small_avatar()
    avatar.neutral.data[2, layout.OPACITY] = -6  # sigmoid 0.0025 < 0.005
    sized(avatar, [8], 0.2)
    none = DensifyStats.zeros(40, torch.device("cpu"))
    assert run(avatar, none).pruned == 1
    assert avatar.count == 39
    assert run(avatar, DensifyStats.zeros(39, torch.device("cpu")), iteration=3100).pruned == 1


def test_max_gaussians_takes_the_largest_gradients() -> None:
    avatar = sized(small_avatar(), list(range(40)), 0.005)
    stats = stats_of(avatar, list(range(10)))
    stats.grad_sum[4] = stats.grad_sum[7] = 100
    rows = run(avatar, stats, max_gaussians=42)
    assert sorted(rows.index[40:].tolist()) == [4, 7]


def test_optimizer_moments_follow_and_new_rows_start_at_zero() -> None:
    avatar = sized(small_avatar(), [3], 0.005)
    optimizer = FactoredAdam(avatar.neutral, avatar.differences)
    optimizer.neutral_exp_avg[:] = torch.arange(40.0)[:, None]
    rows = run(avatar, stats_of(avatar, [3]))
    optimizer.select_rows(rows.index, rows.fresh, avatar.neutral, avatar.differences)
    assert optimizer.neutral_exp_avg[:, 0].tolist() == [*map(float, range(40)), 0.0]


def test_schedule() -> None:
    steps = [i for i in range(1, 20_000) if is_densify_step(SETTINGS, i)]
    assert (steps[0], steps[-1], len(steps)) == (600, 14_800, 72)
    assert collects_stats(SETTINGS, 14_999)
    assert not collects_stats(SETTINGS, 15_000)
    tenth = dataclasses.replace(SETTINGS, schedule_scale=0.1)
    assert [i for i in range(1, 2_000) if is_densify_step(tenth, i)] == [i // 10 for i in steps]
    assert not is_densify_step(dataclasses.replace(SETTINGS, densify=False), 600)


def test_a_run_of_any_length_goes_through_the_whole_schedule() -> None:
    short = dataclasses.replace(SETTINGS, iterations=4_000, schedule_scale=0)
    assert short.scale == 0.1
    assert [i for i in range(1, 2_000) if is_densify_step(short, i)][::71] == [60, 1_480]
    # Below that, changing the rows would take most of the time.
    tiny = [i for i in range(1, 100) if is_densify_step(dataclasses.replace(SETTINGS, schedule_scale=0.005), i)]
    assert tiny and all(b - a == 5 for a, b in itertools.pairwise(tiny))


@pytest.mark.parametrize(("changes", "iteration", "message"), [
    ({"prune_opacity": 1.0}, 600, "--prune_opacity 1: would remove all 40 Gaussians after iteration 600, the largest"),
    ({"prune_scale": 1e-9}, 3100, "--prune_scale 1e-09: would remove all Gaussians after iteration 3100"),
])
def test_pruning_never_leaves_nothing(changes: dict[str, float], iteration: int, message: str) -> None:
    avatar = small_avatar()
    with pytest.raises(ValueError, match=message):
        run(avatar, DensifyStats.zeros(40, torch.device("cpu")), iteration, **changes)
    assert avatar.count == 40


def test_pruning_the_unseen_never_leaves_nothing() -> None:
    avatar = small_avatar()
    with pytest.raises(ValueError, match="--prune_unseen: would remove all 40 Gaussians"):
        keep_only(avatar, torch.zeros(40, dtype=torch.bool))
    assert avatar.count == 40
