"""Corrections of held-out frames: predicted where the tracker's output tells them, left alone where it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from arguments import RefinementSettings
from flame import load_head
from flame.rotations import matrix_from_axis_angle, polar3
from scene.calibration import Calibration, tracked_features
from scene.corrections import Columns
from scene.rig import Rig
from tests.player_subject import CPU, EXPRESSIONS, lively_codes
from tests.refinement_scene import true_world
from training.calibration import LEAST_FRAMES, LIMIT, learn_calibration
from training.refinement import Refinement
from training.world import World

FRAMES, LEARNT = 120, 90
COLUMNS = Columns(EXPRESSIONS)


@pytest.fixture(scope="module")
def world() -> World:
    """A longer clip, without pictures."""
    generator = torch.Generator().manual_seed(2)
    head = load_head("open")
    codes = lively_codes(head, FRAMES, seed=3)
    codes.eyelids[:, 1] = 0.25  # an eye that never blinks tells nothing
    turn = matrix_from_axis_angle(0.2 * torch.randn(FRAMES, 3, generator=generator))
    old = true_world()
    R, t = turn @ old.clip.R[0], old.clip.t[0] + 0.02 * torch.randn(FRAMES, 3, generator=generator)
    clip = replace(old.clip, codes=codes, R=R, t=t, K=old.clip.K[:1].repeat(FRAMES, 1, 1))
    cameras = replace(old.cameras, R=R, t=t, K=clip.K)
    return replace(old, clip=clip, cameras=cameras, rig=Rig(head, codes, EXPRESSIONS, CPU))


def mixture(features: torch.Tensor, columns: int, seed: int = 0) -> torch.Tensor:
    """Corrections [T,columns], of about 1, that are a linear function of the features."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(features.shape[1], columns, generator=generator, dtype=torch.float64)
    return features @ weights / features.shape[1] ** 0.5


def standardised(world: World) -> torch.Tensor:
    """What the tracker says of all frames, against its mean and spread over those learnt, and not far beyond."""
    clip, learnt = world.clip, slice(LEARNT)
    facing = polar3(clip.R[learnt].double().mean(dim=0), steps=8)
    told = tracked_features(clip.codes, clip.R, clip.t, EXPRESSIONS, facing, center_of(world))
    spread = told[learnt].std(dim=0)
    return ((told - told[learnt].mean(dim=0)) / spread.clamp_min(1e-5))[:, spread > 1e-5].clamp(-LIMIT, LIMIT)


def center_of(world: World) -> torch.Tensor:
    return world.rig.posed.neutral.mean(dim=0).double()


def learn(world: World, metres: torch.Tensor, frames: int = LEARNT) -> Calibration | None:
    """From corrections [T,W], as motion of the surface, of the first frames."""
    clip, some = world.clip, slice(frames)
    return learn_calibration(clip.codes.at(some), clip.R[some], clip.t[some], metres[some], COLUMNS,
                             COLUMNS.reach(world.rig.head), center_of(world), "")


def predicted(world: World, calibration: Calibration) -> torch.Tensor:
    """Of all frames, as motion of the surface [T,W]."""
    clip = world.clip
    return calibration.corrections(clip.codes, clip.R, clip.t) * COLUMNS.reach(world.rig.head)


def test_systematic_errors_are_predicted_and_others_are_not(world: World) -> None:
    """Turn and shift are linear in what is tracked, with noise; everything else is noise alone."""
    noise = torch.randn(FRAMES, COLUMNS.width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = torch.zeros_like(noise)
    truth[:, :6] = 1e-3 * mixture(standardised(world), 6)
    calibration = learn(world, truth + 2e-4 * noise)
    assert calibration is not None
    got = predicted(world, calibration)
    assert ((got - truth)[LEARNT:, :6] ** 2).mean() < 0.2 * (truth[LEARNT:, :6] ** 2).mean()
    assert (got[:, 6:] ** 2).mean() < 0.3 * 2e-4**2  # at least as good as taking them for what they were


def test_nothing_is_predicted_beyond_what_training_knew(world: World) -> None:
    """A feature far out counts no further than the limit, and no correction exceeds those of training."""
    metres = 1e-3 * mixture(standardised(world), COLUMNS.width)
    calibration = learn(world, metres)
    assert calibration is not None
    clip = world.clip
    far, farther = (calibration.corrections(clip.codes, clip.R, clip.t + away) for away in (1.0, 5.0))
    assert torch.equal(far, farther)
    reached = far * COLUMNS.reach(world.rig.head)
    assert (reached <= metres[:LEARNT].amax(dim=0) + 1e-12).all()
    assert (reached >= metres[:LEARNT].amin(dim=0) - 1e-12).all()


def test_a_feature_that_stays_still_has_no_weight(world: World) -> None:
    still = replace(world, clip=replace(world.clip, R=world.clip.R[:1].repeat(FRAMES, 1, 1)))
    calibration = learn(still, 1e-3 * mixture(standardised(world), COLUMNS.width))
    assert calibration is not None
    lid, turn = EXPRESSIONS + 7, slice(EXPRESSIONS + 8, EXPRESSIONS + 11)
    assert not calibration.weights[lid].any() and not calibration.weights[turn].any()
    assert calibration.weights[EXPRESSIONS + 6].any()  # the other lid


def test_too_few_frames_predict_nothing(world: World) -> None:
    metres = 1e-3 * mixture(standardised(world), COLUMNS.width)
    assert learn(world, metres, LEAST_FRAMES - 1) is None
    assert learn(world, metres, LEAST_FRAMES) is not None
    assert learn(world, torch.zeros_like(metres)) is None  # nothing was corrected


@pytest.mark.parametrize("calibrate", [True, False])
def test_held_out_frames_get_what_their_tracking_tells(world: World, calibrate: bool) -> None:
    frames = torch.arange(LEARNT)
    refinement = Refinement(world, RefinementSettings(refine_calibrate=calibrate), 1, frames)
    metres = 1e-3 * mixture(standardised(world), refinement.columns.width).float()
    truth = torch.where(refinement.reach > 0, metres / refinement.reach.clamp_min(1e-12), 0.0)
    refinement.table.load_values(truth * (torch.arange(FRAMES) < LEARNT)[:, None])
    refinement.calibrate()
    assert torch.equal(refinement.values[:LEARNT], truth[:LEARNT])
    held_out = refinement.values[LEARNT:]
    if calibrate:
        missed = ((held_out - truth[LEARNT:]) * refinement.reach).norm()
        assert missed < 0.3 * (truth[LEARNT:] * refinement.reach).norm()
    else:
        assert not held_out.any()
