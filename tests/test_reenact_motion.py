"""How heads and cameras move, and the filters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from flame import load_head
from flame.rotations import matrix_from_axis_angle, matrix_to_axis_angle
from player import Player
from reenactment.curves import Curves
from reenactment.motion import (
    LEEWAY,
    HeadMotion,
    SeenTurns,
    cameras_of,
    clip_motion,
    mean_rotation,
    middle_of,
    motion_of,
    motion_of_angles,
    orbited,
    still,
    transferred,
)
from reenactment.smoothing import OneEuro, smoothed, smoothed_columns
from tests.player_subject import SIZE, lively_codes, lively_player


@pytest.fixture(scope="module")
def player() -> Player:
    return lively_player()


@pytest.fixture(scope="module")
def own(player: Player) -> HeadMotion:
    return clip_motion(player.clip, player.head)


def seen_at(player: Player, motion: HeadMotion, size: int = SIZE) -> torch.Tensor:
    """Where the head's middle is in pictures [T,2], pixels."""
    cameras = cameras_of(motion, player.clip, player.head, size, size)
    place = torch.einsum("tij,j->ti", cameras.R, middle_of(player.head)) + cameras.t
    pixels = torch.einsum("tij,tj->ti", cameras.K, place)
    return pixels[:, :2] / pixels[:, 2:]


def test_a_clip_that_drives_itself_gets_its_own_cameras(player: Player, own: HeadMotion) -> None:
    cameras = cameras_of(transferred(own, own), player.clip, player.head, SIZE, SIZE)
    assert torch.allclose(cameras.R, player.clip.R, atol=1e-5)
    assert torch.allclose(cameras.t, player.clip.t, atol=1e-5)
    assert torch.allclose(cameras.K, player.clip.K, atol=1e-4)


def test_a_drivers_turn_and_move_are_seen_alike_through_another_lens(player: Player, own: HeadMotion) -> None:
    """The driver turns by 0.2 rad and moves a tenth of the picture to the right and 20 % closer."""
    turn = matrix_from_axis_angle(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.2, 0.0]]))
    focal = torch.tensor([4.0, 4.0])
    middle = torch.tensor([[0.0, 0.05, 1.0], [0.1 * 0.8 / 4.0, 0.05 * 0.8, 0.8]])
    driver = HeadMotion(turn @ torch.diag(torch.tensor([1.0, -1.0, -1.0])), middle, focal)
    found = transferred(driver, own)
    between = matrix_to_axis_angle(found.R[1] @ found.R[0].T)
    assert torch.allclose(between, torch.tensor([0.0, 0.2, 0.0]), atol=1e-4)
    pixels = seen_at(player, found)
    assert torch.allclose(pixels[1] - pixels[0], torch.tensor([0.1 * SIZE, 0.0]), atol=1e-2)
    assert float(found.middle[1, 2] / found.middle[0, 2]) == pytest.approx(0.8, rel=1e-5)


def test_still_head_is_the_clips_mean(player: Player, own: HeadMotion) -> None:
    held = still(own, 7)
    assert len(held) == 7 and torch.equal(held.R[0], held.R[6])
    # The clip turns evenly from one side to the other about a frontal view.
    assert torch.allclose(held.R[0], torch.diag(torch.tensor([1.0, -1.0, -1.0])), atol=1e-5)


def test_orbit_swings_by_the_given_angle_and_keeps_the_head_in_place(player: Player, own: HeadMotion) -> None:
    held = still(own, 41)
    found = orbited(held, 30.0, 40)
    angles = matrix_to_axis_angle(found.R @ held.R.mT)
    assert float(angles[:, 1].max()) == pytest.approx(math.radians(30), rel=0.02)
    assert float(angles[:, 1].min()) == pytest.approx(-math.radians(30), rel=0.02)
    assert torch.allclose(found.R[0], found.R[40], atol=1e-5)
    assert torch.allclose(seen_at(player, found), seen_at(player, held), atol=1e-3)


def test_a_camera_closer_than_the_face_is_held_off(own: HeadMotion) -> None:
    driver = HeadMotion(own.R, own.middle * torch.tensor([1.0, 1.0, 1e-3]), own.focal)
    driver.middle[0, 2] = 50.0
    assert float(transferred(driver, own).middle[:, 2].min()) >= 0.2 - 1e-6
    assert bool(torch.isfinite(transferred(driver, own).middle).all())


def test_turns_of_training_pass_and_larger_ones_end(own: HeadMotion) -> None:
    limits = SeenTurns(own)
    assert torch.allclose(limits.limited(own).R, own.R, atol=1e-5)
    far = matrix_from_axis_angle(torch.tensor([[0.0, 1.2, 0.0]])) @ mean_rotation(own.R)
    found = limits.limited(HeadMotion(far, own.middle[:1], own.focal[:1]))
    turned = matrix_to_axis_angle(found.R[0] @ mean_rotation(own.R).T)
    assert torch.allclose(turned, torch.tensor([0.0, 0.4 + LEEWAY, 0.0]), atol=1e-3)  # the clip turns 0.4 rad


def test_mean_rotation_of_turns_about_one_axis_is_the_middle_one() -> None:
    turns = torch.zeros(3, 3)
    turns[:, 0] = torch.tensor([0.1, 0.3, 0.5])
    mean = mean_rotation(matrix_from_axis_angle(turns))
    assert torch.allclose(matrix_to_axis_angle(mean), torch.tensor([0.3, 0.0, 0.0]), atol=1e-5)


def test_angles_turn_about_the_heads_axes() -> None:
    zero, some = torch.zeros(1), torch.tensor([0.3])
    forward, up = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    # Camera axes: x right (the subject's left), y down, z away.
    assert float((motion_of_angles(some, zero, zero).R[0] @ forward)[0]) > 0.2  # to its left
    assert float((motion_of_angles(zero, some, zero).R[0] @ forward)[1]) > 0.2  # down
    assert float((motion_of_angles(zero, zero, some).R[0] @ up)[0]) < -0.2  # the top leans to its right


def test_motion_of_tracked_cameras_knows_the_heads_place() -> None:
    head = load_head("open")
    R = torch.eye(3)[None]
    found = motion_of(head, R, torch.tensor([[0.0, 0.0, 0.5]]), torch.tensor([2.0]))
    assert torch.allclose(found.middle[0], middle_of(head) + torch.tensor([0.0, 0.0, 0.5]))


# Filters.


def test_one_euro_passes_a_constant_and_steadies_noise() -> None:
    steady = OneEuro(1.0, 0.0)
    noise = np.random.default_rng(0).normal(size=(400, 3))
    assert np.array_equal(steady(np.ones(3), 0.0), np.ones(3))
    found = np.array([steady(1 + row, (k + 1) / 30) for k, row in enumerate(noise)])
    # A first-order low-pass of 1 Hz at 30 Hz leaves sqrt(a / (2 - a)) = 0.31 of white noise, a = 0.173.
    assert found[50:].std() == pytest.approx(0.31 * noise.std(), rel=0.15)
    assert found[50:].mean() == pytest.approx(1, abs=0.1)


def test_one_euro_lags_less_at_speed() -> None:
    def lag(speed: float) -> float:
        euro = OneEuro(1.0, speed)
        ramp = [float(euro(np.array([5.0 * k / 30]), k / 30)[0]) for k in range(60)]
        return 5.0 * 59 / 30 - ramp[-1]

    assert lag(1.0) < 0.4 * lag(0.0)


def test_one_euro_does_not_go_back_in_time() -> None:
    euro = OneEuro(1.0, 0.0)
    euro(np.zeros(1), 1.0)
    first = euro(np.ones(1), 2.0)
    assert np.array_equal(euro(np.full(1, 9.0), 2.0), first)
    assert np.array_equal(euro(np.full(1, 9.0), 0.5), first)


@pytest.mark.parametrize(("cutoff", "speed"), [(0.0, 1.0), (-1.0, 1.0), (1.0, -0.1), (float("nan"), 1.0)])
def test_one_euro_refuses_nonsense(cutoff: float, speed: float) -> None:
    with pytest.raises(ValueError, match="One Euro filter: wanted a cutoff above 0 Hz"):
        OneEuro(cutoff, speed)


def test_recorded_curves_are_smoothed_but_for_the_lids() -> None:
    curves = Curves.of(lively_codes(load_head("open"), 40, seed=1))
    found = smoothed(curves, 9)
    for name in ("expression", "jaw", "gaze", "neck"):
        before, after = getattr(curves, name), getattr(found, name)
        assert float(after.diff(dim=0).abs().mean()) < 0.6 * float(before.diff(dim=0).abs().mean()), name
    assert torch.equal(found.lids, curves.lids)
    assert smoothed(curves, 0) is curves and smoothed(curves, 41) is curves


def test_smoothing_keeps_a_parabola() -> None:
    time = torch.linspace(-1, 1, 30)[:, None]
    assert torch.allclose(smoothed_columns(time**2, 7), time**2, atol=1e-5)


@pytest.mark.parametrize("window", [1, 3, 6, -5])
def test_window_must_be_odd_and_large_enough(window: int) -> None:
    with pytest.raises(ValueError, match=f"--smooth: wanted 0 .* got {window}"):
        smoothed(Curves.of(lively_codes(load_head("open"), 3, seed=1)), window)


def test_smoothed_motion_turns_steadily(own: HeadMotion) -> None:
    generator = torch.Generator().manual_seed(0)
    shaky = HeadMotion(matrix_from_axis_angle(0.05 * torch.randn(60, 3, generator=generator)) @ own.R[:1],
                       own.middle[:1].expand(60, 3), own.focal[:1].expand(60))
    found = shaky.smoothed(15)
    assert torch.allclose(found.R @ found.R.mT, torch.eye(3).expand(60, 3, 3), atol=1e-5)

    def shaking(motion: HeadMotion) -> float:
        return float((motion.R[1:] @ motion.R[:-1].mT - torch.eye(3)).norm())

    assert shaking(found) < 0.4 * shaking(shaky)
