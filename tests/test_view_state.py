"""The viewer's state: sliders, overrides, cameras, clock and picture sizes, all without a browser."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from flame import load_head
from flame.rotations import matrix_from_6d, matrix_to_axis_angle, quat_from_matrix
from scene.rig import Codes
from tests.player_subject import EXPRESSIONS, lively_player
from viewer.camera import browser_camera, clip_camera, opening_view
from viewer.pace import LEAST_SIDE, Pace
from viewer.playback import Playback
from viewer.state import (
    EXPRESSION,
    ViewState,
    codes_of,
    expression_groups,
    neutral_of,
    single_expression,
    slider_values,
    sliders_of,
    with_override,
)

PLAYER = lively_player()
HEAD, CLIP = PLAYER.head, PLAYER.clip
SLIDERS = sliders_of(HEAD, EXPRESSIONS, CLIP.codes)


def vector(code: torch.Tensor) -> torch.Tensor:
    """Rotation vector in degrees of a 6D code [6]."""
    return matrix_to_axis_angle(matrix_from_6d(code)).rad2deg()


def same(a: Codes, b: Codes, *names: str) -> bool:
    # Rotations go through vectors and back only where a slider turns them, so the rest is equal to the bit.
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in names)


def test_without_overrides_the_codes_are_the_clips_or_at_rest() -> None:
    shown = codes_of(ViewState(frame=3), HEAD, CLIP.codes)
    assert same(shown, CLIP.codes.at(slice(3, 4)), "expression", "jaw", "eyes", "eyelids", "neck")
    rest = codes_of(ViewState(base="neutral", frame=3), HEAD, CLIP.codes)
    assert not rest.expression.any() and not rest.eyelids.any()
    assert all(vector(rest.eyes[0, part]).norm() == 0 for part in (slice(0, 6), slice(6, 12)))


@pytest.mark.parametrize("name", list(SLIDERS))
def test_each_slider_changes_its_code_alone_and_reads_back(name: str) -> None:
    slider = SLIDERS[name]
    value = slider.low + 0.8 * (slider.high - slider.low)
    state = ViewState(frame=2)
    before, after = (codes_of(s, HEAD, CLIP.codes) for s in (state, with_override(state, slider, value)))
    # 1e-3 of a degree or coefficient: float32 rotation vectors there and back.
    assert slider_values(after, SLIDERS, HEAD)[name] == pytest.approx(value, abs=2e-3)
    moved = {"jaw": "jaw", "look": "eyes", "neck": "neck"}.get(name.split()[0], "eyelids")
    if name.startswith(EXPRESSION):
        moved = "expression"
        index = HEAD.expression_names.index(name.removeprefix(EXPRESSION))
        others = [k for k in range(HEAD.n_expression) if k != index]
        assert torch.equal(before.expression[0, others], after.expression[0, others])
    assert same(before, after, *({"expression", "jaw", "eyes", "eyelids", "neck"} - {moved}))
    assert not same(before, after, moved)


def test_directions_of_the_turns() -> None:
    def turned(name: str, value: float) -> Codes:
        return codes_of(with_override(ViewState(base="neutral"), SLIDERS[name], value), HEAD, CLIP.codes)

    gaze = matrix_from_6d(turned("look up", 20).eyes.view(2, 6)) @ torch.tensor([0.0, 0, 1])
    assert (gaze[:, 1] > 0.3).all(), "up is +y"
    gaze = matrix_from_6d(turned("look left", 20).eyes.view(2, 6)) @ torch.tensor([0.0, 0, 1])
    assert (gaze[:, 0] > 0.3).all(), "the subject's left is +x"
    rest, open_ = (PLAYER.vertices(c)[0] for c in (neutral_of(CLIP.codes), turned("jaw open", 20)))
    chin = rest[HEAD.regions["face"], 1].argmin()
    assert (open_ - rest)[HEAD.regions["face"][chin], 1] < -0.005, "an opening jaw lowers the chin by centimetres"


def test_an_expression_takes_along_the_jaw_that_belongs_to_it() -> None:
    head = load_head("open")
    sliders = sliders_of(head, head.n_expression, CLIP.codes)
    index = head.expression_names.index("jawOpen")
    alone = single_expression(ViewState(), sliders[EXPRESSION + "jawOpen"], 1.0)
    codes = codes_of(alone, head, CLIP.codes)
    assert codes.expression.sum() == 1 and codes.expression[0, index] == 1
    assert torch.allclose(vector(codes.jaw[0]), head.expression_jaw[index].rad2deg(), atol=1e-3)
    fixed = codes_of(with_override(alone, sliders["jaw open"], 2.0), head, CLIP.codes)
    assert vector(fixed.jaw[0])[0] == pytest.approx(2.0, abs=1e-3), "a jaw slider has the last word"


def test_slider_ranges_follow_the_clip() -> None:
    unsigned = sliders_of(HEAD, EXPRESSIONS, CLIP.codes)[EXPRESSION + HEAD.expression_names[0]]
    assert (unsigned.low, unsigned.high) == (0.0, 1.0)
    codes = replace(CLIP.codes, expression=-4.2 * CLIP.codes.expression / CLIP.codes.expression.max())
    signed = sliders_of(HEAD, HEAD.n_expression, codes)[EXPRESSION + HEAD.expression_names[0]]
    assert (signed.low, signed.high) == (-4.2, 4.2)


def test_values_are_cut_to_the_range_and_nonsense_is_refused() -> None:
    slider = SLIDERS["jaw open"]
    assert with_override(ViewState(), slider, 1e9).overrides["jaw open"] == slider.high
    for nonsense in (math.nan, math.inf):
        with pytest.raises(ValueError, match="jaw open: wanted a finite number"):
            with_override(ViewState(), slider, nonsense)


@pytest.mark.parametrize(("change", "message"), [
    ({"base": "other"}, "base: wanted one of clip, neutral"),
    ({"layer": "x"}, "layer: wanted one of colour"),
    ({"view": "x"}, "view: wanted one of orbit"),
    ({"parts": "x"}, "parts: wanted one of everything"),
    ({"frame": -1}, "frame and mask_expression"),
    ({"background": (0, 0, 2)}, "background: wanted three numbers"),
])
def test_impossible_states_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewState(**change)


@pytest.mark.parametrize(("state", "message"), [
    (ViewState(frame=99), "frame: wanted 0 to 4, got 99"),
    (ViewState(overrides={"tail wag": 1.0}), "slider: 'tail wag' is not known"),
    (ViewState(overrides={EXPRESSION + "tailWag": 1.0}), "expression: 'tailWag' is none of the head's"),
])
def test_codes_that_there_are_not(state: ViewState, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codes_of(state, HEAD, CLIP.codes)


def test_folders_of_named_and_numbered_expressions() -> None:
    assert expression_groups(("browDownLeft", "mouthPucker", "tongueOut")) == ["Brow", "Mouth", "Tongue"]
    numbered = expression_groups(tuple(f"exp{k:03d}" for k in range(12)))
    assert numbered[0] == numbered[9] == "Expressions 0 to 9"
    assert numbered[10] == "Expressions 10 to 11"


def test_the_opening_view_is_the_first_frames_camera() -> None:
    view = opening_view(CLIP, [0.0, 0, 0])
    forward = (view.look_at - view.position) / np.linalg.norm(view.look_at - view.position)
    right = np.cross(forward, view.up)
    # Quaternion of the matrix whose columns are the camera's axes, as viser reports it.
    quat = quat_from_matrix(torch.from_numpy(np.stack([right, -view.up, forward], axis=1))).numpy()
    camera = browser_camera(quat, view.position, view.fov, CLIP.width, CLIP.height)
    assert torch.allclose(camera.R[0], CLIP.R[0], atol=1e-4)
    assert torch.allclose(camera.t[0], CLIP.t[0], atol=1e-4)
    assert torch.allclose(camera.K[0], CLIP.K[0], atol=1e-2)


def test_clip_camera_keeps_the_whole_frame_in_the_middle() -> None:
    wide = clip_camera(CLIP, 1, 3 * CLIP.width, CLIP.height)
    corners = torch.tensor([[0.0, 0, 1], [CLIP.width, CLIP.height, 1]])
    rays = corners @ torch.linalg.inv(CLIP.K[1]).T
    shown = rays @ wide.K[0].T
    assert torch.allclose(shown[:, :2], torch.tensor([[CLIP.width, 0.0], [2.0 * CLIP.width, CLIP.height]]), atol=1e-3)


@pytest.mark.parametrize(("arguments", "message"), [
    (([1, 0, 0, math.nan], [0, 0, 0], 1.0), "finite quaternion"),
    (([0, 0, 0, 0], [0, 0, 0], 1.0), "wanted a quaternion"),
    (([1, 0, 0, 0], [0, 0, 1e9], 1.0), "within 1000 km"),
    (([1, 0, 0, 0], [0, 0], 1.0), "finite quaternion and position"),
    (([1, 0, 0, 0], [0, 0, 0], math.nan), "field of view"),
    (([1, 0, 0, 0], [0, 0, 0], "wide"), "wanted numbers"),
])
def test_malformed_cameras_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        browser_camera(arguments[0], arguments[1], arguments[2], 64, 64)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_playback_keeps_real_time_loops_and_ends() -> None:
    clock = Clock()
    playback = Playback(10, 5.0, clock)
    playback.start(4)
    clock.now += 0.61
    assert playback.frame() == (7, False)
    clock.now += 1.0
    assert playback.frame() == (2, False), "loops"
    playback.loop = False
    assert playback.frame() == (9, True)
    playback.stop()
    assert not playback.playing
    with pytest.raises(RuntimeError, match="not playing"):
        playback.frame()
    playback.start(9)
    assert playback.frame() == (0, False), "from the beginning when it stands at the end"


def test_speed_changes_while_playing_without_a_jump() -> None:
    clock = Clock()
    playback = Playback(100, 10.0, clock)
    playback.start(0)
    clock.now += 2.05
    playback.set_fps(20.0)
    assert playback.frame()[0] == 20
    clock.now += 1.01
    assert playback.frame()[0] == 40
    with pytest.raises(ValueError, match="speed: wanted more than 0"):
        playback.set_fps(0)


def test_pace_meets_its_budget_and_is_sharp_at_rest() -> None:
    pace = Pace(0.05, 1024)
    assert pace.size(4000, 2000, moving=False) == (1024, 512)
    seconds_a_pixel = 0.05 / 300**2
    for _ in range(20):
        width, height = pace.size(1000, 1000, moving=True)
        pace.record(seconds_a_pixel * width * height, width * height)
    # Steps of sqrt(2) in size from 1000: the largest that fits into 300 x 300 pixels' time is 250.
    assert pace.size(1000, 1000, moving=True) == (250, 250)
    for _ in range(50):
        pace.record(100.0, 10)
    assert pace.size(1000, 1000, moving=True)[0] >= LEAST_SIDE / math.sqrt(2), "never too small to see anything"


@pytest.mark.parametrize("size", [(0, 100), (-5, 5), (10, 100_000)])
def test_pace_refuses_impossible_windows(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="window: wanted a positive size"):
        Pace(0.1, 512).size(*size, moving=True)
