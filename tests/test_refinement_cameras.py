"""Refinement with several cameras: a moment has one correction, which moves the head; cameras have one each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from arguments import DataSettings, ModelSettings, OptimizationSettings, RefinementSettings, RunSettings, TrainSettings
from flame.rotations import matrix_from_cayley
from gaussian_renderer import Cameras, render
from scene.checkpoint import newest_checkpoint
from scene.clip import calibrated_clip
from scene.corrections import Columns, corrected_cameras
from scene.recording import Recording
from tests.player_subject import CPU, EXPRESSIONS
from tests.refinement_scene import HELD_OUT, avatar_in_double, in_double, mistake, ring_world, true_avatar, true_world
from training.refinement import CAMERA_WIDTH, Refinement, moved_cameras
from training.trainer import Trainer
from training.world import World

COLUMNS, CAMERAS = Columns(EXPRESSIONS), 3
MOMENTS = HELD_OUT + 1
FREE = RefinementSettings(refine_prior=0.0)
WITH_CAMERAS = replace(FREE, refine_camera_lr=1e-3)


def learning(world: World, settings: RefinementSettings = FREE) -> Refinement:
    return Refinement(world, settings, 80.0, world.clip.train)


def as_matrix(R: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """[...,4,4] of x -> R x + t, in double precision."""
    top = torch.cat([R.double(), t.double()[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def double_ring(size: int = 32) -> World:
    """The ring in double precision with smaller pictures."""
    world = ring_world()
    c = world.cameras
    scale = torch.tensor([[size / c.width], [size / c.height], [1.0]], dtype=torch.float64)
    return replace(world, cameras=Cameras(c.R.double(), c.t.double(), c.K.double() * scale, size, size),
                   rig=in_double(world.rig))


def test_a_correction_moves_the_head_alike_before_all_cameras() -> None:
    """Slow definition: cameras stay, x -> A^T Cay(turn) A (x - c) + A^T shift + c moves the head, A of camera 0."""
    world = ring_world()
    refinement = learning(world)
    refinement.table.load_values(mistake(0.05, 4e-3, 0.1))
    for moment in range(MOMENTS):
        frames = moment + MOMENTS * torch.arange(CAMERAS)
        rows = refinement.rows(frames)
        assert torch.equal(rows[0], rows[1])
        assert torch.equal(rows[0], rows[2])
        turn, shift, _ = COLUMNS.parts(rows[0].detach())
        A, center = world.cameras.R[moment].double(), refinement.center.double()
        inner = A.T @ matrix_from_cayley(turn.double()) @ A
        head = as_matrix(inner, center + A.T @ shift.double() - inner @ center)
        cameras, _ = refinement.view(frames, rows)
        got = as_matrix(cameras.R, cameras.t)
        wanted = as_matrix(world.cameras.R[frames], world.cameras.t[frames]) @ head
        # float32 in rotations and metres
        assert torch.allclose(got, wanted, atol=2e-6)


def test_one_camera_is_corrected_in_its_own_axes_to_the_bit() -> None:
    world, frames = true_world(), torch.arange(MOMENTS)
    refinement = Refinement(world, FREE, 80.0, None)
    rows = mistake(0.05, 4e-3, 0.1)
    cameras, _ = refinement.view(frames, rows)
    wanted = corrected_cameras(world.cameras, *COLUMNS.parts(rows)[:2], refinement.center)
    assert torch.equal(cameras.R, wanted.R)
    assert torch.equal(cameras.t, wanted.t)


def test_gradient_of_a_moment_is_that_of_all_its_pictures() -> None:
    """Against central differences in double precision: turn, shift, codes, and the correction of one camera."""
    refinement = Refinement(double_ring(), WITH_CAMERAS, 1, None)
    assert refinement.camera_table is not None
    avatar, frames = avatar_in_double(), 1 + MOMENTS * torch.arange(CAMERAS)
    weights = torch.rand(CAMERAS, 3, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    moment = 0.3 * mistake(0.02, 0.002, 0.05)[1].double() + 0.003
    cameras = torch.randn(CAMERAS, CAMERA_WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cameras *= torch.tensor([0.02] * 3 + [0.002] * 3)
    width = COLUMNS.width

    def score(numbers: torch.Tensor) -> torch.Tensor:
        """Of the moment's and then the second camera's numbers, at their place in the rows."""
        own = torch.stack([cameras[0], numbers[width:], cameras[2]])
        rows = torch.cat([numbers[:width].expand(CAMERAS, -1), own], dim=1)
        seen, drive = refinement.view(frames, rows)
        output = render(avatar.pose(drive, 3), seen)
        return (output.image * weights).sum() + output.alpha.sum()

    base = torch.cat([moment, cameras[1]])
    rows = torch.cat([moment.expand(CAMERAS, -1), cameras], dim=1).requires_grad_()
    seen, drive = refinement.view(frames, rows)
    output = render(avatar.pose(drive, 3), seen)
    gradient = torch.autograd.grad((output.image * weights).sum() + output.alpha.sum(), rows)[0]
    refinement.update(frames, gradient.float())
    # A first step of Adam keeps a tenth of the gradient.
    got = 10 * torch.cat([refinement.table.exp_avg[1], refinement.camera_table.exp_avg[1]]).double()
    chosen = [0, 1, 2, 3, 4, 5, 7, 12, width - 1, *range(width, width + CAMERA_WIDTH)]
    step, units = 1e-8, torch.eye(width + CAMERA_WIDTH, dtype=torch.float64)[chosen]
    with torch.no_grad():
        wanted = torch.stack([(score(base + step * u) - score(base - step * u)) / (2 * step) for u in units])
    # The score is some 1e3: exact to 1e3 * 1e-16 / 1e-8 = 1e-5; Adam's state is single precision.
    assert torch.allclose(got[chosen], wanted, rtol=1e-4, atol=1e-3)
    assert (wanted.abs() > 1e-2).double().mean() > 0.8


def test_means_stay_zero_and_what_is_held_out_stays() -> None:
    world = ring_world()
    train = world.clip.train[world.clip.train < 2 * MOMENTS]  # the third camera is held out
    refinement = Refinement(world, WITH_CAMERAS, 80.0, train)
    for frames in ([0, 6], [2, 3], [8, 1]):
        refinement.update(torch.tensor(frames), torch.rand(2, COLUMNS.width + CAMERA_WIDTH))
    assert refinement.camera_table is not None
    moments, cameras = refinement.values, refinement.camera_table.values
    for table, learnt in ((moments, HELD_OUT), (cameras, 2)):
        assert table[:learnt].abs().max() > 1e-5
        assert table[:learnt].mean(dim=0).abs().max() < 1e-8
        assert not table[learnt:].any()
    corrected = refinement.corrected_world()
    assert torch.equal(corrected.cameras.R[HELD_OUT + 2 * MOMENTS], world.cameras.R[HELD_OUT + 2 * MOMENTS])
    # A picture of the held-out camera takes what the others have learnt of its moment.
    assert not torch.equal(corrected.cameras.R[2 * MOMENTS], world.cameras.R[2 * MOMENTS])


def test_held_out_moments_are_predicted_from_the_reference_camera_alone() -> None:
    """A second camera, turned against the first, changes nothing of what is predicted."""
    old, count, learnt = true_world(), 60, 45
    generator = torch.Generator().manual_seed(2)
    index = torch.arange(count) % MOMENTS
    vector = 0.2 * torch.randn(count, 3, generator=generator)
    turn = matrix_from_cayley(vector)
    R, t = turn @ old.clip.R[index], old.clip.t[index] + 0.02 * torch.randn(count, 3, generator=generator)
    clip = replace(old.clip, codes=old.clip.codes.at(index), R=R, t=t, K=old.clip.K[index])
    alone = replace(old, clip=clip, cameras=replace(old.cameras, R=R, t=t, K=clip.K),
                    rig=old.rig.with_codes(clip.codes))
    side, twice = matrix_from_cayley(torch.tensor([0.0, 0.6, 0.0])), index.repeat(2)
    recorded = Recording(np.tile(np.arange(count), 2), np.repeat([0, 1], count), ("a", "b"))
    both = replace(old.clip, codes=old.clip.codes.at(twice), R=torch.cat([R, side @ R]),
                   t=torch.cat([t, t @ side.T]), K=old.clip.K[twice], recorded=recorded)
    pair = replace(old, clip=both, cameras=replace(old.cameras, R=both.R, t=both.t, K=both.K),
                   rig=old.rig.with_codes(both.codes))
    values = torch.zeros(count, COLUMNS.width)
    values[:learnt, :3] = 0.05 * vector[:learnt]
    found, first = [], torch.arange(learnt)
    for world, frames in ((alone, first), (pair, torch.cat([first, count + first[:9]]))):
        refinement = Refinement(world, FREE, 80.0, frames)
        refinement.table.load_values(values)
        refinement.calibrate()
        found.append(refinement.values)
        calibration = refinement.calibration
        assert calibration is not None
        assert calibration.camera == world.clip.recording.main_camera
        # From the calibration alone, every picture of a moment gets what the table has for it.
        kept, alike = refinement.corrected_world().clip, calibrated_clip(world.clip, calibration)
        held_out = torch.from_numpy(world.clip.recording.time) >= learnt
        assert torch.allclose(kept.R[held_out], alike.R[held_out], atol=1e-6)
        assert torch.allclose(kept.t[held_out], alike.t[held_out], atol=1e-6)
    assert found[0][learnt:].abs().max() > 1e-4
    assert torch.equal(*found)
    assert calibration is not None
    with pytest.raises(ValueError, match="camera: wanted pictures of a, .* got those of a single camera"):
        calibrated_clip(alone.clip, calibration)


def settings_for(folder: Path, **refinement: float) -> TrainSettings:
    optimization = OptimizationSettings(iterations=100, batch_size=4, schedule_scale=1e-3, densify=False)
    return TrainSettings(DataSettings(folder), RunSettings(folder), ModelSettings(num_face_gaussians=200), optimization,
                         RefinementSettings(**refinement))  # type: ignore[arg-type]


def test_a_misplaced_camera_comes_right_against_the_others(tmp_path: Path) -> None:
    """What all cameras share cannot be told from the avatar's place; what one is off against the others is found."""
    truth = ring_world()
    wrong = torch.tensor(truth.clip.recording.view == 1)[:, None] * torch.tensor([0.02, -0.03, 0.01, 2e-3, 3e-3, -2e-3])
    pivot = (truth.cameras.R @ truth.rig.posed.neutral.mean(dim=0) + truth.cameras.t)
    world = replace(truth, cameras=moved_cameras(truth.cameras, wrong[:, :3], wrong[:, 3:], pivot))
    world = replace(world, clip=replace(world.clip, R=world.cameras.R, t=world.cameras.t))
    mine = Trainer(settings_for(tmp_path, refine_camera_lr=6e-4, refine_pose_lr=0, refine_expression_lr=0,
                                refine_joint_lr=0, refine_from_iter=0), world, CPU)
    mine.avatar = true_avatar()
    mine._renew_optimizer()
    for _ in range(40):
        mine.step()
    assert mine.refinement is not None
    found = mine.refinement.state_dict()["camera_values"]
    assert not mine.refinement.values.any()
    wanted = torch.zeros(CAMERAS, CAMERA_WIDTH)
    wanted[1] = -wrong[MOMENTS]
    wanted -= wanted.mean(dim=0)
    reach = mine.refinement.reach[:CAMERA_WIDTH]
    assert ((found - wanted) * reach).norm() < 0.4 * (wanted * reach).norm()


def test_a_resumed_run_of_several_cameras_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, refine_from_iter=3_000, refine_camera_lr=1e-4)
    whole = Trainer(settings, ring_world(), CPU)
    for iteration in range(1, 8):
        whole.step()
        if iteration == 5:
            whole.save(tmp_path / "checkpoints", 0)
    resumed = Trainer(settings, ring_world(), CPU)
    resumed.restore(newest_checkpoint(tmp_path))
    for _ in range(2):
        resumed.step()
    assert whole.refinement is not None
    assert resumed.refinement is not None
    for name, wanted in whole.refinement.state_dict().items():
        assert torch.equal(resumed.refinement.state_dict()[name], wanted), name
    assert whole.refinement.state_dict()["camera_values"].any()
