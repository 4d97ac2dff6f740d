"""Each layer of the viewer draws what it says, and a slider changes the picture where it should and only there."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from blendshape_ops import LOG_SCALES

from arguments import DataSettings
from evaluation.pictures import colorize
from gaussian_renderer import Cameras
from player import Player
from scene.avatar import FACE
from scene.sway import CODES
from tests.player_subject import EXPRESSIONS, SIZE, lively_player
from tests.tracker_folder import write_folder
from viewer.camera import clip_camera
from viewer.picture import OUTSIDE, Painter
from viewer.recording import film, screenshot, timeline
from viewer.state import EXPRESSION, ViewState, single_expression, sliders_of, with_override
from viewer.truth import GroundTruth

PLAYER = lively_player()
SLIDERS = sliders_of(PLAYER.head, EXPRESSIONS, PLAYER.clip.codes)
REST = ViewState(base="neutral")
SIDE = 160


@lru_cache(maxsize=1)
def dense_painter() -> Painter:
    """Enough Gaussians to cover the head, none larger than 5 mm (2.7 pixels), so that none reaches across the face.

    Expressions move what the head model's move: those of the made-up sway move all of the mesh.
    """
    player = lively_player.__wrapped__(4000)
    assert player.avatar.sway is not None
    with torch.no_grad():
        player.avatar.sway.values[CODES:] = 0
        player.avatar.neutral[:, LOG_SCALES].clamp_(max=np.log(0.005))
        player.avatar.differences.values[:, LOG_SCALES] = 0
    return Painter(player)


def front(side: int = SIDE) -> Cameras:
    """The clip's camera that looks straight at the face."""
    return clip_camera(PLAYER.clip, 2, side, side)


def pixels_of(points: torch.Tensor, camera: Cameras) -> np.ndarray:
    """Where points [N,3] appear: [N,2] pixels."""
    seen = (points @ camera.R[0].T + camera.t[0]) @ camera.K[0].T
    return (seen[:, :2] / seen[:, 2:]).numpy()


def changed(painter: Painter, before: ViewState, after: ViewState, threshold: int = 2) -> np.ndarray:
    """Pixels [H,W] that differ by more than `threshold` grey levels in some channel."""
    one, other = (painter.paint(state, front()).astype(int) for state in (before, after))
    return np.abs(one - other).max(axis=2) > threshold


def near(points: np.ndarray, margin: float) -> np.ndarray:
    """Pixels [H,W] within `margin` of any of the points [N,2]."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    inside = points[((points >= 0) & (points < SIDE)).all(axis=1)].astype(int)
    canvas[inside[:, 1], inside[:, 0]] = 1
    reach = round(2 * margin) + 1
    return cv2.dilate(canvas, np.ones((reach, reach), np.uint8)) > 0


@pytest.mark.parametrize("name", ["browDownLeft", "cheekPuff", "eyeBlinkRight"])
def test_an_expression_changes_the_picture_where_its_gaussians_lie_and_only_there(name: str) -> None:
    painter = dense_painter()
    index = painter.player.head.expression_names.index(name)
    difference = changed(painter, REST, single_expression(REST, SLIDERS[EXPRESSION + name], 1.0))
    posed = painter.player.pose(painter.codes(REST), front().centers)
    # Splats reach three standard deviations (8 pixels) and move by up to a centimetre (5 pixels).
    allowed = near(pixels_of(posed.means[0][painter.mask(index) > 0], front()), 16)
    assert difference.sum() > 30
    assert not (difference & ~allowed).any()
    assert (~allowed).mean() > 0.3, "the test says nothing if everything is allowed"


def test_the_gaze_moves_the_eyes_alone_and_the_jaw_the_lower_face() -> None:
    painter = dense_painter()
    vertices = painter.player.vertices(painter.codes(REST))[0]
    eyes = pixels_of(vertices[painter.player.head.regions["eyes"]], front())
    difference = changed(painter, REST, with_override(REST, SLIDERS["look left"], 30))
    assert difference.any() and not (difference & ~near(eyes, 16)).any()
    difference = changed(painter, REST, with_override(REST, SLIDERS["jaw open"], 25))
    rows = np.flatnonzero(difference.any(axis=1))
    assert len(rows) > 20 and rows.min() > eyes[:, 1].mean(), "nothing above the eyes moves with the jaw"


def lone_painter(opacity: float = 0.9) -> tuple[Painter, int]:
    """A player with a single, broad face Gaussian at the tip of the nose."""
    avatar = PLAYER.avatar.to(torch.device("cpu"))
    face = torch.nonzero(avatar.part == FACE)[:, 0]
    row = face[avatar.neutral[face, 2].argmax()]
    values = avatar.neutral[row][None].detach().clone()
    values[:, 7:10], values[:, 10] = np.log(0.02), np.log(opacity / (1 - opacity))
    avatar.select_rows(row[None], values)
    lone = Player(PLAYER.head, avatar, PLAYER.clip, 3, EXPRESSIONS, torch.device("cpu"), "lone")
    return Painter(lone), int(row)


def test_depth_is_metric() -> None:
    painter, _ = lone_painter()
    for distance in (0.0, 0.15):
        camera = replace(front(), t=front().t + torch.tensor([[0.0, 0, distance]]))
        centre = painter.player.pose(painter.codes(REST), camera.centers).means[0, 0]
        wanted = float(camera.R[0, 2] @ centre + camera.t[0, 2])
        depth, alpha = painter.depth(REST, camera)
        column, row = pixels_of(centre[None], camera)[0].astype(int)
        assert alpha[row, column] > 0.8
        assert float(depth[row, column]) == pytest.approx(wanted, abs=1e-5)  # metres; float32 rounding
        assert depth[0, 0] == 0, "no depth where nothing is"


def test_depth_picture_is_brighter_where_the_head_is_nearer() -> None:
    painter = dense_painter()
    state = replace(REST, layer="depth")
    near_end, far_end = painter.depth_range(front())
    depth, alpha = painter.depth(REST, front())
    inside = depth[alpha > 0.9]
    assert near_end < float(inside.median()) < far_end
    picture = painter.paint(state, front()).astype(int).sum(axis=2)
    depth_of = depth.numpy()
    solid = alpha.numpy() > 0.9
    nearest, farthest = (solid & (depth_of < np.quantile(inside, 0.2)), solid & (depth_of > np.quantile(inside, 0.8)))
    assert picture[nearest].min() > picture[farthest].max()


def test_opacity_is_alpha_and_the_background_shows_through_it() -> None:
    painter = dense_painter()
    grey = painter.paint(replace(REST, layer="opacity"), front())
    expected = painter.player.render(painter.codes(REST), front()).alpha[0].numpy()
    assert np.abs(grey[..., 0] / 255 - expected).max() <= 0.5 / 255 + 1e-6  # rounding to bytes
    red = painter.paint(replace(REST, background=(1.0, 0.0, 0.0)), front()).astype(float)
    black = painter.paint(REST, front()).astype(float)
    wanted = np.clip(black[..., 0] + 255 * (1 - expected), 0, 255)
    free = black[..., 0] < 255  # a clipped colour hides how bright it was
    assert np.abs(red[..., 0] - wanted)[free].max() <= 1.5
    assert np.array_equal(red[..., 1:], black[..., 1:])


def test_mask_picture_is_bright_where_the_expression_acts() -> None:
    painter = dense_painter()
    index = painter.player.head.expression_names.index("browDownLeft")
    mask = painter.mask(index)
    avatar = painter.player.avatar
    pairs = avatar.differences.expression == index
    assert int((mask > 0).sum()) == int(pairs.sum()) > 0
    heat = painter._heat(index)
    strongest = int(mask.argmax())
    brightest = torch.from_numpy(colorize(np.ones((1, 1)))[0, 0].astype(np.float32) / 255)
    assert torch.allclose(heat[strongest], brightest), "the largest mask has the end of the scale"
    picture = painter.paint(replace(REST, layer="mask", mask_expression=index), front())
    posed = painter.player.pose(painter.codes(REST), front().centers)
    allowed = near(pixels_of(posed.means[0][mask > 0], front()), 14)
    # 8 of 255: the scale's own black is (0, 0, 4).
    assert picture[~allowed].max() <= 8 and picture[allowed].max() > 100


def test_parts_divide_the_splats() -> None:
    painter = dense_painter()
    teeth, face, both = (painter._shown(replace(REST, parts=parts)) for parts in
                         ("teeth only", "without teeth", "everything"))
    assert torch.equal(teeth ^ face, both) and both.all()
    assert torch.equal(teeth, painter.player.avatar.part != FACE)
    only = painter.paint(replace(REST, parts="teeth only", layer="opacity"), front())[..., 0]
    mouth = pixels_of(painter.player.vertices(painter.codes(REST))[0][painter.player.head.regions["mouth"]], front())
    rows = np.flatnonzero((only > 30).any(axis=1))
    assert len(rows) and abs(rows.mean() - mouth[:, 1].mean()) < 20, "teeth lie behind the mouth"


def test_mesh_overlay_covers_the_head_and_nothing_else() -> None:
    painter = dense_painter()
    empty = replace(REST, parts="teeth only", layer="mask")  # a dark picture, so that the overlay is all there is
    picture = painter.paint(replace(empty, mesh=True), front()).astype(int).sum(axis=2)
    without = painter.paint(empty, front()).astype(int).sum(axis=2)
    corners = pixels_of(painter.player.vertices(painter.codes(REST))[0], front())
    hull = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.round(corners).astype(np.int32)), 1)
    drawn = picture > without
    assert not (drawn & ~(cv2.dilate(hull, np.ones((5, 5), np.uint8)) > 0)).any()
    face = pixels_of(painter.player.vertices(painter.codes(REST))[0][painter.player.head.regions["face"]], front())
    inside = face[((face >= 0) & (face < SIDE)).all(axis=1)].astype(int)
    assert drawn[inside[:, 1], inside[:, 0]].mean() > 0.95


def test_a_dot_at_the_centre_of_every_visible_splat() -> None:
    painter, _ = lone_painter(opacity=0.02)
    picture = painter.paint(replace(REST, centres=True), front())
    centre = painter.player.pose(painter.codes(REST), front().centers).means[0]
    column, row = pixels_of(centre, front())[0].astype(int)
    dots = np.argwhere(picture.max(axis=2) > 200)
    assert dots.tolist() == [[row, column]]


class Truth(GroundTruth):
    """A plain picture instead of files."""

    def __init__(self, value: float) -> None:
        self.value = value

    def over(self, frame: int, background: tuple[float, float, float]) -> np.ndarray:
        return np.full((SIZE, SIZE, 3), self.value, np.float32)


def test_comparison_shows_truth_avatar_and_error_of_the_clips_frame() -> None:
    painter = Painter(PLAYER, Truth(0.5))
    state = ViewState(frame=1, compare=True)
    picture = painter.paint(state, front(3 * SIZE))  # three panels of SIZE columns, in the middle of the height
    top = SIZE
    panels = [picture[top:top + SIZE, k * SIZE:(k + 1) * SIZE] for k in range(3)]
    assert (picture[:top] == OUTSIDE).all() and (picture[top + SIZE:] == OUTSIDE).all()
    below = slice(30, None)  # labels lie above
    assert (panels[0][below] == 128).all()
    own = painter.paint(replace(state, compare=False, view="clip"), clip_camera(PLAYER.clip, 1, SIZE, SIZE))
    assert np.array_equal(panels[1][below], own[below])
    error = np.abs(own[below] / 255 - 0.5).mean(axis=2)
    assert np.abs(panels[2][below].astype(int) - colorize(error / 0.25)).max() <= 6  # bytes rounded once more


def test_comparison_errors() -> None:
    with pytest.raises(ValueError, match="compare: wanted the data set"):
        Painter(PLAYER).paint(ViewState(compare=True), front())
    with pytest.raises(ValueError, match="compare: wanted the codes of the clip"):
        Painter(PLAYER, Truth(0.5)).paint(replace(REST, compare=True), front())


def test_ground_truth_reads_the_data_set_and_refuses_another_one(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", frames=4)
    data = DataSettings(tmp_path / "data", test_frames=1, head="open")
    with pytest.raises(ValueError, match=r"not the data set of this avatar: wanted 5 frames of 96 x 96"):
        GroundTruth(data, PLAYER.clip)
    clip = replace(PLAYER.clip, R=PLAYER.clip.R[:4], width=24, height=20)
    truth = GroundTruth(data, clip).over(2, (0.0, 0.0, 1.0))
    # The hand-written frame 2: colour (20, 100, 200), alpha 255 on the left, 128 on the right.
    assert np.allclose(truth[0, 0], np.array([20, 100, 200]) / 255, atol=1e-6)
    assert np.allclose(truth[0, -1], (np.array([20, 100, 200]) * 128 + np.array([0, 0, 255]) * 127) / 255**2, atol=1e-6)
    with pytest.raises((ValueError, OSError), match="gone"):
        GroundTruth(replace(data, source_path=tmp_path / "gone"), clip)


def test_screenshot_is_the_picture_and_a_film_has_all_frames(tmp_path: Path) -> None:
    painter = Painter(PLAYER)
    data = screenshot(painter, ViewState(frame=1), front(64))
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.array_equal(decoded[..., ::-1], painter.paint(ViewState(frame=1), front(64)))
    seen: list[int] = []

    def note(done: int) -> bool:
        seen.append(done)
        return True

    states = timeline(with_override(REST, SLIDERS["jaw open"], 10), range(5))
    movie = film(painter, states, front(64), 25.0, note)
    assert movie is not None and seen == [1, 2, 3, 4, 5]
    (tmp_path / "film.mp4").write_bytes(movie)
    video = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 5
    assert film(painter, timeline(REST, range(5)), front(64), 25.0, lambda done: done < 2) is None, "stopped"


def test_captures_have_a_limit() -> None:
    with pytest.raises(ValueError, match="capture: wanted 1 to 4096 pixels"):
        screenshot(Painter(PLAYER), REST, replace(front(), width=5000))


def test_the_captured_renderer_draws_the_same_picture() -> None:
    painter = dense_painter()
    for side in (SIDE, SIDE // 2):
        fast = painter._paint_fast(ViewState(frame=1, background=(0.2, 0.4, 0.6)), front(side)).astype(float)
        eager = painter.paint(ViewState(frame=1, background=(0.2, 0.4, 0.6)), front(side)).astype(float)
        assert 10 * np.log10(255**2 / np.mean((fast - eager) ** 2)) > 50  # half-precision differences


@pytest.mark.gpu
def test_every_layer_is_the_same_on_a_gpu() -> None:
    on_cpu = dense_painter()
    player = Player(on_cpu.player.head, on_cpu.player.avatar, on_cpu.player.clip, 3, EXPRESSIONS, torch.device("cuda"),
                    "gpu")
    on_gpu = Painter(player)
    base = ViewState(frame=1)
    for state in (base, replace(base, layer="opacity"), replace(base, layer="depth"), replace(base, layer="mask"),
                  replace(base, mesh=True), replace(base, centres=True), replace(base, parts="teeth only")):
        one, other = (painter.paint(state, front()).astype(float) for painter in (on_cpu, on_gpu))
        assert 10 * np.log10(255**2 / max(1e-9, np.mean((one - other) ** 2))) > 40, state
