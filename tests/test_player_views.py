"""Where training saw the head from, and which frame shows it best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from player import Player
from player.views import APART, directions, front_frame, off_seen, seen_directions, words_for
from scene.clip import Clip
from tests.player_subject import lively_player

PLAYER = lively_player()
MIDDLE = np.zeros(3)


def turned(degrees: list[float], neck: list[float] | None = None, train: list[int] | None = None) -> Clip:
    """A clip of still faces seen from `degrees` to the side, 0.6 m away, with the neck turned."""
    count, axis = len(degrees), torch.tensor([0.0, 1, 0])
    turn = matrix_from_axis_angle(torch.tensor(degrees, dtype=torch.float32).deg2rad()[:, None] * axis)
    codes = PLAYER.clip.codes.at(torch.zeros(count, dtype=torch.int64))
    code = None if neck is None else matrix_to_6d(matrix_from_axis_angle(torch.tensor(neck).deg2rad()[:, None] * axis))
    return replace(PLAYER.clip, codes=replace(codes, neck=code), R=torch.diag(torch.tensor([1.0, -1, -1])) @ turn,
                   t=torch.tensor([0.0, 0, 0.6]).repeat(count, 1), K=PLAYER.clip.K[:1].repeat(count, 1, 1),
                   train=torch.tensor(list(range(count)) if train is None else train), test=torch.tensor([count - 1]))


def with_clip(clip: Clip) -> Player:
    return Player(PLAYER.head, PLAYER.avatar, clip, 3, PLAYER.num_expressions, PLAYER.device, "turned")


def side_of(degrees: float) -> np.ndarray:
    """The direction to a camera of `turned`."""
    angle = np.radians(degrees)
    return np.array([-np.sin(angle), 0, np.cos(angle)])


def test_views_are_those_of_training_frames_alone() -> None:
    seen = seen_directions(with_clip(turned([-20, 0, 20, 70], train=[0, 1, 2])), MIDDLE)
    assert len(seen) == 3
    assert off_seen(side_of(20), seen) == pytest.approx(0, abs=0.1)
    assert off_seen(side_of(70), seen) == pytest.approx(50, abs=0.1)
    assert off_seen(side_of(180), seen) == pytest.approx(160, abs=0.1)


def test_views_close_together_count_once() -> None:
    seen = seen_directions(with_clip(turned(list(np.linspace(-30, 30, 200)))), MIDDLE)
    assert 60 / (2 * APART) <= len(seen) <= 60 / APART + 1
    assert max(off_seen(side_of(angle), seen) for angle in np.linspace(-30, 30, 50)) <= APART + 0.01


def test_a_turned_neck_shows_the_head_from_the_side() -> None:
    player = with_clip(turned([0.0, 0.0], neck=[0.0, 40.0]))
    rest = player.vertices(player.neutral_codes())[0]
    middle = (0.5 * (rest.amin(0) + rest.amax(0))).numpy()
    seen = seen_directions(player, middle)
    assert len(seen) == 2
    assert off_seen(seen[1], seen[:1]) == pytest.approx(40, abs=6)  # the neck's joint is not the head's middle


def test_a_rigid_motion_of_the_skull_with_its_camera_is_no_new_view() -> None:
    turn = matrix_from_axis_angle(torch.tensor([[0.3, -0.8, 0.2]]).double())  # of float32, no rotation to 1e-9
    shift, camera = torch.tensor([[0.1, 0.2, -0.3]]).double(), torch.tensor([[0.2, 0.1, 0.9]]).double()
    still = directions(torch.eye(3, 4)[None], camera, MIDDLE)
    moved = directions(torch.cat([turn, shift[..., None]], dim=2), (turn @ camera[..., None])[..., 0] + shift, MIDDLE)
    np.testing.assert_allclose(still, moved, atol=1e-9)


def test_words_only_well_outside() -> None:
    assert words_for(10) == ""
    assert words_for(61.4) == "61° from the nearest view of training: what is seen here is a guess"


def test_the_first_frame_is_frontal_and_usual() -> None:
    assert front_frame(turned([-30, -4, 25])) == 1
    clip = turned([1.0, -2.0, 2.0, 25.0, 25.0])
    grimace = clip.codes.expression.clone()
    grimace[0] += 1.0
    assert front_frame(replace(clip, codes=replace(clip.codes, expression=grimace))) in (1, 2)
