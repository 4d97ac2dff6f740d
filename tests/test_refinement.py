"""Refinement of tracking: its gradients, its laws, and mistracked scenes of known truth that come right."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from arguments import DataSettings, ModelSettings, OptimizationSettings, RefinementSettings, RunSettings, TrainSettings
from gaussian_renderer import Cameras, render
from scene.checkpoint import CheckpointError, newest_checkpoint
from scene.corrections import Columns, corrected_cameras
from scene.rig import SKULL_BONE, CodeChange, Codes, Rig
from tests.heads import random_codes, random_head
from tests.player_subject import CPU, EXPRESSIONS
from tests.refinement_scene import (
    HELD_OUT,
    avatar_in_double,
    camera_errors,
    in_double,
    mistake,
    mistracked,
    true_avatar,
    true_world,
)
from training.corrections import BETAS, EPS, LAST_RATE, MOST_HASTE, USUAL_VISITS
from training.fitting import WEIGHTS, fit_tracking, lpips_of_fits
from training.refinement import Refinement
from training.trainer import Trainer
from training.world import World

COLUMNS = Columns(EXPRESSIONS)
FREE = RefinementSettings(refine_tracking=True, refine_prior=0.0)


def learning(world: World, settings: RefinementSettings = FREE, visits: float = USUAL_VISITS) -> Refinement:
    """A refinement of the training frames; by default with the rates of the settings."""
    return Refinement(world, settings, visits, torch.from_numpy(world.dataset.train_indices))


def test_gradient_is_that_of_the_picture() -> None:
    """Against central differences, in double precision, for every column of one frame."""
    world = true_world()
    c = world.cameras
    half = torch.tensor([[0.5], [0.5], [1.0]], dtype=torch.float64)
    cameras = Cameras(c.R.double(), c.t.double(), c.K.double() * half, 48, 48)
    refinement = Refinement(replace(world, cameras=cameras, rig=in_double(world.rig)), FREE, 1, None)
    refinement.center = refinement.center.double()
    avatar, frame = avatar_in_double(), torch.tensor([1])
    weights = torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    base = 0.3 * mistake(0.02, 0.002, 0.05)[1:2].double() + 0.003

    def score(rows: torch.Tensor) -> torch.Tensor:
        cameras, drive = refinement.view(frame, rows)
        output = render(avatar.pose(drive, 3), cameras)
        return (output.image[0] * weights).sum() + output.alpha.sum()

    got = torch.autograd.grad(score(base.requires_grad_()), base)[0][0]
    step = 1e-8
    with torch.no_grad():
        wanted = torch.stack([(score(base + step * unit) - score(base - step * unit)) / (2 * step)
                              for unit in torch.eye(COLUMNS.width, dtype=torch.float64)])
    # The score is some 1e3, so the difference is exact to about 1e3 * 1e-16 / 1e-8 = 1e-5. No edge of a Gaussian (alpha
    # of 1/255), where the picture jumps, crosses a pixel within this step.
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert (wanted.abs() > 1e-3).double().mean() > 0.9


def test_no_correction_is_the_tracked_view() -> None:
    world, frames = true_world(), torch.tensor([0, 3])
    cameras, drive = learning(world).view(frames, torch.zeros(2, COLUMNS.width))
    plain_cameras = world.cameras_of(frames)
    plain = world.rig.drive(frames, plain_cameras.centers)
    for name in ("R", "t"):
        assert torch.allclose(getattr(cameras, name), getattr(plain_cameras, name), atol=1e-6)
    for name in ("beta", "triangle_maps", "bones", "camera_centers", "pre_offsets", "post_offsets"):
        got, wanted = getattr(drive, name), getattr(plain, name)
        assert (got is None and wanted is None) or torch.allclose(got, wanted, atol=1e-6), name


def test_corrected_view_is_that_of_the_corrected_clip() -> None:
    """What training sees is what everyone sees who reads the clip afterwards."""
    world, frames = true_world(), torch.arange(5)
    refinement = Refinement(world, FREE, 1, None)
    refinement.table.load_values(mistake(0.02, 0.003, 0.1) + 0.01)
    cameras, drive = refinement.view(frames, refinement.rows(frames).detach())
    saved = refinement.corrected_world()
    assert torch.allclose(saved.cameras.R, cameras.R, atol=1e-6)
    assert torch.equal(saved.clip.t, saved.cameras.t)
    again = saved.rig.drive(frames, saved.cameras.centers)
    # The skull's rigid motion follows no expression here; in the clip it may, by what moves the back of the head.
    for name in ("beta", "triangle_maps", "bones", "camera_centers", "post_offsets"):
        got, wanted = getattr(drive, name), getattr(again, name)
        assert (got is None and wanted is None) or torch.allclose(got, wanted, atol=1e-5), name


def test_changed_codes_drive_a_head_with_pose_correctives_and_a_neck() -> None:
    """As in FLAME; only the skull, whose motion is kept, may differ from the rig of the changed codes."""
    head = random_head()
    codes = Codes(**{name: code.float() for name, code in random_codes(head, 6).items()})
    rig, frames, generator = Rig(head, codes, 3, CPU), torch.tensor([4, 1]), torch.Generator().manual_seed(0)
    change = CodeChange(*(0.1 * torch.randn(2, width, generator=generator) for width in (3, 6, 12, 2)))
    assert rig.pose_dirs is not None
    changed = replace(codes, expression=codes.expression.clone(), jaw=codes.jaw.clone(), eyes=codes.eyes.clone(),
                      eyelids=codes.eyelids.clone())
    changed.expression[frames, :3] += change.expression
    for name in ("jaw", "eyes", "eyelids"):
        getattr(changed, name)[frames] += getattr(change, name)
    center = torch.zeros(2, 3)
    got, wanted = rig.drive_changed(frames, change, center), rig.with_codes(changed).drive(frames, center)
    for name in ("beta", "triangle_maps", "pre_offsets", "post_offsets"):
        assert torch.allclose(getattr(got, name), getattr(wanted, name), atol=1e-5), name
    rigid = [i for i in range(got.bones.shape[1]) if i != got.bones.shape[1] + SKULL_BONE]
    assert torch.allclose(got.bones[:, rigid], wanted.bones[:, rigid], atol=1e-5)
    assert torch.equal(got.bones[:, SKULL_BONE], rig.bones[frames, SKULL_BONE])


def test_turn_goes_about_the_center_of_the_head() -> None:
    cameras, center = true_world().cameras, torch.tensor([0.01, -0.02, 0.03])
    turn, shift = torch.tensor([[0.1, -0.2, 0.3]]).repeat(5, 1), torch.tensor([[0.001, 0.002, 0.003]]).repeat(5, 1)
    moved = corrected_cameras(cameras, turn, shift, center)
    place = (cameras.R @ center) + cameras.t
    assert torch.allclose((moved.R @ center) + moved.t, place + shift, atol=1e-6)
    cosine = ((moved.R @ cameras.R.transpose(1, 2)).diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    assert torch.allclose(torch.arccos(cosine), 2 * torch.arctan(turn.norm(dim=1) / 2), atol=1e-4)


def test_update_is_adam_of_the_drawn_rows() -> None:
    world = true_world()
    refinement = Refinement(world, FREE, USUAL_VISITS, None)
    table = torch.nn.Parameter(torch.zeros(COLUMNS.width))
    adam = torch.optim.Adam([table], lr=1.0, betas=BETAS, eps=EPS)
    generator, position = torch.Generator().manual_seed(0), torch.zeros(COLUMNS.width)
    for step in range(6):
        gradient = torch.randn(2, COLUMNS.width, generator=generator)
        twice = step == 3  # the batch that ends an epoch may hold a frame twice: its gradients add up
        refinement.update(torch.tensor([2, 2] if twice else [2, 0]), gradient)
        table.grad = gradient.sum(0) if twice else gradient[0]
        before = table.detach().clone()
        adam.step()
        position += refinement.table.rates * LAST_RATE ** ((step + 1) / USUAL_VISITS) * (table.detach() - before)
    # float32, six steps
    assert torch.allclose(refinement.values[2], position, rtol=1e-4, atol=1e-9)
    assert refinement.table.visits[:, 0].tolist() == [5, 0, 6, 0, 0]
    assert not refinement.values[[1, 3, 4]].any()


def test_rates_fall_with_the_visits() -> None:
    refinement = Refinement(true_world(), FREE, 10, None)
    moves = []
    for _ in range(11):
        before = refinement.values[0, 3].item()
        refinement.update(torch.tensor([0]), torch.ones(1, COLUMNS.width))
        moves.append(abs(refinement.values[0, 3].item() - before))
    assert moves[9] == pytest.approx(0.1 * MOST_HASTE * FREE.refine_pose_lr, rel=1e-3)
    assert all(later < earlier for earlier, later in pairwise(moves))


def test_frames_that_are_drawn_seldom_take_longer_steps() -> None:
    visits = (12 * USUAL_VISITS, USUAL_VISITS / 2, 1)
    rates = [float(Refinement(true_world(), FREE, count, None).table.rates[3]) for count in visits]
    assert rates == pytest.approx([factor * FREE.refine_pose_lr for factor in (1, 2, MOST_HASTE)])


def test_rates_are_metres_of_surface_motion() -> None:
    refinement = Refinement(true_world(), replace(FREE, refine_expression_lr=5e-4, refine_joint_lr=0),
                            USUAL_VISITS, None)
    moving = refinement.reach > 0
    metres = (refinement.table.rates * refinement.reach)[moving]
    assert torch.allclose(metres[:6], torch.tensor(FREE.refine_pose_lr))
    assert torch.allclose(metres[6:-20], torch.tensor(5e-4))
    assert not refinement.table.rates[-20:].any()
    assert not refinement.table.rates[~moving].any()


def test_mean_of_training_frames_stays_zero_and_held_out_frames_stay_tracked() -> None:
    refinement = learning(true_world())
    for frames in ([0, 1], [2, 3], [3, 0]):
        refinement.update(torch.tensor(frames), torch.rand(2, COLUMNS.width))
    assert refinement.values[:HELD_OUT].abs().max() > 1e-5
    assert refinement.values[:HELD_OUT].mean(dim=0).abs().max() < 1e-8
    assert not refinement.values[HELD_OUT].any()


def test_prior_pulls_towards_the_tracker() -> None:
    """Its cost is the squared motion in millimetres; without pictures nothing of a correction is left."""
    world = true_world()
    refinement = Refinement(world, replace(FREE, refine_prior=0.5), 200, None)
    rows = torch.zeros(2, COLUMNS.width)
    rows[0, 3], rows[1, 0] = 2e-3, 0.01  # 2 mm of shift, 10 mrad at a lever of 10 cm
    assert float(refinement.prior(rows)) == pytest.approx(0.5 * (4 + 1) / 2)
    refinement.table.load_values(mistake(0.01, 1e-3, 0.05))
    frames, before = torch.arange(5), (refinement.values * refinement.reach).abs().max()
    for _ in range(200):
        rows = refinement.rows(frames)
        refinement.update(frames, torch.autograd.grad(refinement.prior(rows), rows)[0])
    assert (refinement.values * refinement.reach).abs().max() < 0.05 * before


def test_fitting_a_frame_finds_its_pose_and_leaves_the_avatar_alone() -> None:
    world, avatar, frames = mistracked(mistake(0.02, 2e-3, 0.0)), true_avatar(), [1, HELD_OUT]
    table, values = avatar.neutral.detach().clone(), avatar.differences.values.clone()
    fitted = fit_tracking(world, avatar, 3, frames, 40, 2)
    index = torch.tensor(frames)
    before, after = camera_errors(world, index), camera_errors(fitted, index)
    assert after[0] < 0.4 * before[0]
    assert after[1] < 0.4 * before[1]
    assert torch.equal(avatar.neutral, table)
    assert torch.equal(avatar.differences.values, values)
    assert not avatar.differences.factors
    assert torch.equal(fitted.cameras.t[0], world.cameras.t[0])  # not asked for


def test_fitting_finds_expression_codes() -> None:
    world, avatar = mistracked(mistake(0.0, 0.0, 0.1, seed=4)), true_avatar()
    rates = RefinementSettings(refine_pose_lr=0, refine_expression_lr=3e-4, refine_joint_lr=0, refine_prior=0)
    fitted = fit_tracking(world, avatar, 3, list(range(5)), 80, 5, rates)
    truth, reach = true_world().rig.beta, COLUMNS.reach(world.head)[6:-20]
    before, after = (((w.rig.beta - truth) * reach).norm() for w in (world, fitted))
    assert after < 0.6 * before


def test_fitting_finds_the_codes_of_the_sway() -> None:
    """Also where the pose says nothing about how hair and shoulders lie."""
    world, avatar = true_world(), true_avatar()
    truth = world.clip.codes.sway
    assert truth is not None
    wrong = truth + 0.5 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(2))
    clip = replace(world.clip, codes=replace(world.clip.codes, sway=wrong))
    rates = RefinementSettings(refine_pose_lr=0, refine_expression_lr=3e-4, refine_joint_lr=0, refine_prior=0)
    fitted = fit_tracking(replace(world, clip=clip, rig=world.rig.with_codes(clip.codes)), avatar, 3, [*range(5)], 80,
                          5, rates)
    assert fitted.clip.codes.sway is not None
    assert (fitted.clip.codes.sway - truth).norm() < 0.6 * (wrong - truth).norm()


def test_a_fit_without_a_sway_leaves_its_codes() -> None:
    world, avatar = true_world(), true_avatar()
    avatar.sway = None
    fitted = fit_tracking(world, avatar, 3, [0, 1], 3, 2)
    assert fitted.clip.codes.sway is not None and world.clip.codes.sway is not None
    assert torch.equal(fitted.clip.codes.sway, world.clip.codes.sway)


def test_a_fit_minimises_the_perceptual_distance_of_all_frames() -> None:
    """One that wants the head darker at the left moves it right, whatever the picture says."""
    world, avatar, asked = true_world(), true_avatar(), []

    def left(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        asked.append((len(image), len(target)))
        return image[..., :image.shape[3] // 2].mean(dim=(1, 2, 3))

    index, weights = torch.tensor([0, 1, 2]), replace(WEIGHTS, lpips_loss=100.0)
    without = fit_tracking(world, avatar, 3, [0, 1, 2], 10, 2, weights=weights)
    fitted = fit_tracking(world, avatar, 3, [0, 1, 2], 10, 2, weights=weights, perceptual=left)
    assert asked == 10 * [(2, 2)] + 10 * [(1, 1)]
    assert bool((fitted.cameras.t[index, 0] > without.cameras.t[index, 0] + 2e-4).all())


def test_a_fit_without_the_weights_of_lpips_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert lpips_of_fits(tmp_path, true_world()) is None
    assert "without LPIPS" in caplog.text and str(tmp_path) in caplog.text


def test_a_wrong_matte_draws_a_fit_less_than_with_the_methods_weight() -> None:
    """The poses are exact and the pictures right on black, but the matte takes a black strip beside the head for it."""
    world, avatar, index = true_world(), true_avatar(), torch.tensor([1, HELD_OUT])
    pictures = copy(world.dataset)
    rgb, alpha = world.dataset.rgba_batch([*range(5)]).float().split((3, 1), dim=3)
    wide = torch.maximum(alpha, alpha.roll(4, dims=2))
    rgba = torch.cat([rgb * alpha / wide.clamp_min(1), wide], dim=3).round().byte()
    pictures.rgba_all = rgba  # type: ignore[attr-defined]
    wrong = replace(world, dataset=pictures)
    own, published = (camera_errors(fit_tracking(wrong, avatar, 3, index.tolist(), 30, 2, weights=weights), index)[1]
                     for weights in (WEIGHTS, OptimizationSettings(alpha_loss=10)))
    assert own < 0.6 * published  # 1.9 and 4.9 mm when written


def train_settings(folder: Path, **refinement: float) -> TrainSettings:
    # The sway of the true avatar and its world's codes are right as they are.
    optimization = OptimizationSettings(iterations=100, batch_size=2, schedule_scale=1e-3, densify=False, sway_lr=0)
    return TrainSettings(DataSettings(folder), RunSettings(folder), ModelSettings(num_face_gaussians=200), optimization,
                         RefinementSettings(**{"refine_tracking": True, **refinement}))  # type: ignore[arg-type]


def trainer(world: World, settings: TrainSettings) -> Trainer:
    return Trainer(settings, world, CPU)


def test_training_corrects_the_poses_of_its_frames(tmp_path: Path) -> None:
    """From an avatar that fits the truth: the turn and shift of training frames come back, held-out ones stay."""
    world = mistracked(mistake(0.03, 3e-3, 0.0) * torch.tensor([[1.0]] * HELD_OUT + [[0.0]]))
    mine = trainer(world, train_settings(tmp_path, refine_pose_lr=4e-4, refine_prior=0))
    mine.avatar = true_avatar()
    mine._renew_optimizer()
    for _ in range(60):
        mine.step()
    assert mine.refinement is not None
    corrected, frames = mine.refinement.corrected_world(), torch.arange(HELD_OUT)
    assert camera_errors(corrected, frames)[1] < 0.6 * camera_errors(world, frames)[1]
    assert torch.equal(corrected.cameras.R[HELD_OUT], world.cameras.R[HELD_OUT])
    assert torch.equal(corrected.rig.beta[HELD_OUT], world.rig.beta[HELD_OUT])


def test_nothing_changes_before_its_start(tmp_path: Path) -> None:
    """Up to --refine_from_iter a run is, to the last bit, the run without refinement."""
    with_it = train_settings(tmp_path, refine_from_iter=5_000)
    without = replace(with_it, refinement=RefinementSettings(refine_tracking=False))
    runs = [trainer(true_world(), settings) for settings in (with_it, without)]
    for _ in range(5):
        losses = [run.step().losses for run in runs]
        assert losses[0] == losses[1]
    assert torch.equal(runs[0].avatar.neutral, runs[1].avatar.neutral)
    assert "tracking" in runs[0].step().losses


def test_resumed_run_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    settings = train_settings(tmp_path, refine_from_iter=3_000)
    whole = trainer(true_world(), settings)
    for iteration in range(1, 11):
        whole.step()
        if iteration == 6:
            whole.save(tmp_path / "checkpoints", 0)
    resumed = trainer(true_world(), settings)
    resumed.restore(newest_checkpoint(tmp_path))
    for _ in range(4):
        resumed.step()
    assert whole.refinement is not None
    assert resumed.refinement is not None
    for name, wanted in whole.refinement.state_dict().items():
        assert torch.equal(resumed.refinement.state_dict()[name], wanted), name
    assert whole.refinement.values.any()
    assert torch.equal(whole.avatar.neutral, resumed.avatar.neutral)
    assert torch.equal(whole.avatar.code_range, resumed.avatar.code_range)


def test_corrected_codes_are_within_the_avatars_range(tmp_path: Path) -> None:
    mine = trainer(true_world(), train_settings(tmp_path, refine_expression_lr=2e-3, refine_from_iter=0))
    before = mine.avatar.code_range.clone()
    for _ in range(6):
        mine.step()
    assert mine.refinement is not None
    mine.calibrate()
    codes = mine.refinement.corrected_world().rig.beta[torch.from_numpy(mine.world.dataset.train_indices)]
    assert (codes >= mine.avatar.code_range[0] - 1e-6).all()
    assert (codes <= mine.avatar.code_range[1] + 1e-6).all()
    assert not torch.equal(mine.avatar.code_range, before)


@pytest.mark.parametrize(("flags", "message"), [
    ({"refine_prior": -1.0}, "--refine_prior: wanted 0 or more, got -1"),
    ({"refine_pose_lr": float("nan")}, "--refine_pose_lr: wanted 0 or more, got nan"),
])
def test_settings_that_make_no_sense(flags: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RefinementSettings(**flags)  # type: ignore[arg-type]


def test_refinement_that_would_never_start_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    late = trainer(true_world(), train_settings(tmp_path, refine_from_iter=100_000))
    assert "--refine_from_iter: 100000 stands for iteration 100 here, not before the last one (100)" in caplog.text
    assert late.refinement is not None
    late.step()
    assert not late.refinement.values.any()


def test_checkpoints_with_and_without_corrections_do_not_mix(tmp_path: Path) -> None:
    settings = train_settings(tmp_path)
    plain = trainer(true_world(), replace(settings, refinement=RefinementSettings(refine_tracking=False)))
    plain.save(tmp_path / "checkpoints", 0)
    with pytest.raises(CheckpointError, match=r"missing \['refinement.exp_avg'"):
        trainer(true_world(), settings).restore(newest_checkpoint(tmp_path))


def test_corrections_of_another_clip_are_refused() -> None:
    refinement = learning(true_world())
    with pytest.raises(ValueError, match=r"corrections: wanted \[5, 38\] \(frames, columns\), got \[6, 38\]"):
        refinement.table.load_values(torch.zeros(6, 38))
    state = refinement.state_dict() | {"visits": torch.zeros(7, 1)}
    with pytest.raises(ValueError, match=r"refinement.visits: wanted \[5, 1\] \(frames, columns\), got \[7, 1\]"):
        refinement.load_state_dict(state)


def test_code_change_names_its_parts() -> None:
    turn, shift, change = COLUMNS.parts(torch.arange(COLUMNS.width).float())
    assert isinstance(change, CodeChange)
    assert [len(part) for part in (turn, shift, change.expression, change.jaw, change.eyes, change.eyelids)] == [
        3, 3, EXPRESSIONS, 6, 12, 2]
