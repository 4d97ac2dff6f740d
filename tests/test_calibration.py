"""Corrections of held-out frames: predicted where the tracker's output tells them, left alone where it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from arguments import RefinementSettings
from flame import load_head
from flame.rotations import matrix_from_axis_angle
from scene.rig import Rig
from tests.player_subject import CPU, EXPRESSIONS, lively_codes
from tests.refinement_scene import true_world
from training.calibration import LEAST_FRAMES, LIMIT, predict, tracked_features
from training.refinement import Refinement
from training.world import World

FRAMES, LEARNT = 120, 90


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


def test_features_are_standardised_and_hold_only_what_varies(world: World) -> None:
    frames = torch.arange(LEARNT)
    features = tracked_features(world, frames)
    assert features.shape == (FRAMES, EXPRESSIONS + 6 + 1 + 3 + 3)
    assert features[frames].mean(dim=0).abs().max() < 0.2  # limited to three deviations after standardising
    assert features.abs().max() <= LIMIT
    still = replace(world, clip=replace(world.clip, R=world.clip.R[:1].repeat(FRAMES, 1, 1)))
    assert tracked_features(still, frames).shape[1] == features.shape[1] - 3


def test_systematic_errors_are_predicted_and_others_are_not(world: World) -> None:
    """Two groups of columns: one linear in what is tracked, with noise, one that is noise alone."""
    frames = torch.arange(LEARNT)
    features = tracked_features(world, frames)
    noise = torch.randn(FRAMES, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = torch.cat([mixture(features, 4), torch.zeros(FRAMES, 3, dtype=torch.float64)], dim=1)
    predicted = predict(features, frames, (truth + 0.2 * noise)[frames], [4, 3])
    missed = (predicted - truth)[LEARNT:, :4]
    assert (missed**2).mean() < 0.2 * (truth[LEARNT:, :4] ** 2).mean()
    assert (predicted[:, 4:] ** 2).mean() < 0.3 * 0.2**2  # at least as good as taking them for what they were


def test_too_few_frames_predict_nothing() -> None:
    features = torch.randn(LEAST_FRAMES + 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    few = torch.arange(LEAST_FRAMES - 1)
    assert not predict(features, few, features[few], [3]).any()
    enough = torch.arange(LEAST_FRAMES)
    assert predict(features, enough, features[enough], [3]).any()


@pytest.mark.parametrize("calibrate", [True, False])
def test_held_out_frames_get_what_their_tracking_tells(world: World, calibrate: bool) -> None:
    frames = torch.arange(LEARNT)
    refinement = Refinement(world, RefinementSettings(refine_calibrate=calibrate), 1, frames)
    metres = 1e-3 * mixture(tracked_features(world, frames), refinement.columns.width).float()
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
