"""The verdict on a clip, the figures behind it, and the pictures that show it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from flame import Head, load_head
from tests.heads import still_fit
from tests.track_videos import picture
from tracking import mesh_view
from tracking.footage import Dropped
from tracking.mesh_view import EARS, SKULL, MeshView
from tracking.outline import reach_out
from tracking.preview import preview_frame, write_error_plot
from tracking.records import BLENDSHAPE_NAMES
from tracking.verdict import Quality, head_yaw, judge, sharpness

FRAMES = 300


def quality(frames: int = FRAMES) -> Quality:
    """Of a clip without fault."""
    full = np.ones(frames, np.float32)
    return Quality(face_pixels=300 * full, sharpness=0.07 * full, yaw=np.linspace(-20, 20, frames, dtype=np.float32),
                   others=np.zeros(frames, np.int64), landmark_error=1.5 * full, matte_area=0.4 * full,
                   matte_on_face=full, skull_beyond=0 * full, ears_beyond=np.nan * full)


def scores(frames: int = FRAMES, used: int = 20) -> np.ndarray:
    """Blendshape scores of which `used` go from 0 to 1."""
    values = np.zeros((frames, len(BLENDSHAPE_NAMES)), np.float32)
    values[:, 1:1 + used] = np.linspace(0, 1, frames)[:, None]
    return values


def test_good_clip() -> None:
    verdict = judge(quality(), scores(), 512, FRAMES, 0, [])
    assert verdict.word == "good" and verdict.reasons == ()


def some(share: float, value: float, rest: float) -> np.ndarray:
    values = np.full(FRAMES, rest, np.float32)
    values[: round(share * FRAMES)] = value
    return values


@pytest.mark.parametrize(("change", "word", "reason"), [
    ({"face_pixels": some(1, 150, 0)}, "usable", "the face is only 150 pixels high"),
    ({"face_pixels": some(1, 60, 0)}, "poor", "the face is only 60 pixels high"),
    ({"sharpness": some(0.3, 0.02, 0.07)}, "usable", "30% of the pictures are blurred"),
    ({"sharpness": some(0.8, 0.02, 0.07)}, "poor", "80% of the pictures are blurred"),
    ({"yaw": some(0.3, -70, 0)}, "usable", "30% of the pictures show the head from the side"),
    ({"others": some(0.2, 1, 0)}, "usable", "other people are seen in 20% of the pictures"),
    ({"landmark_error": some(1, 8, 0)}, "usable", "misses the landmarks by 8.0 pixels of 512"),
    ({"landmark_error": some(0.1, 6, 1.5)}, "usable", "in 10% of the pictures the fit is much worse than usual"),
    ({"matte_on_face": some(0.5, 0.3, 1)}, "poor", "the matte misses a part of the face in 50%"),
    ({"skull_beyond": some(1, 0.06, 0)}, "usable", "the skull of the head model reaches 6% of the head's width beyond"),
    ({"skull_beyond": some(0.9, 0.2, 0)}, "poor", "the skull of the head model reaches 20%"),
    ({"ears_beyond": some(0.8, 0.08, np.nan)}, "usable", "the ears of the head model reach 8%"),
])
def test_fault_is_named(change: dict[str, np.ndarray], word: str, reason: str) -> None:
    verdict = judge(replace(quality(), **change), scores(), 512, FRAMES, 0, [])
    assert verdict.word == word
    assert len(verdict.reasons) == 1 and reason in verdict.reasons[0]


def test_faults_of_the_whole_clip() -> None:
    assert judge(quality(150), scores(150), 512, 150, 0, []).word == "usable"
    short = judge(quality(40), scores(40), 512, 40, 0, [])
    assert short.word == "poor" and "40 pictures only; film 10 seconds" in short.reasons[0]
    lost = judge(quality(), scores(), 512, 400, 100, [])
    assert lost.word == "usable" and "the face was not found in 25%" in lost.reasons[0]
    still = judge(quality(), scores(used=2), 512, FRAMES, 0, [])
    assert still.word == "poor" and "only 2 of 51 expressions occur" in still.reasons[0]


def test_frontal_clip_is_told_but_good() -> None:
    verdict = judge(replace(quality(), yaw=some(0.5, 4, -3)), scores(), 512, FRAMES, 0, [])
    assert verdict.word == "good" and "the head turns by 7 degrees only" in verdict.reasons[0]


def test_worst_comes_first_and_notes_last() -> None:
    bad = replace(quality(), face_pixels=some(1, 60, 0), yaw=some(0.3, 70, 0))
    verdict = judge(bad, scores(), 512, FRAMES, 0, ["the clip has cuts"])
    assert verdict.word == "poor" and "60 pixels" in verdict.reasons[0]
    assert "from the side" in verdict.reasons[1] and verdict.reasons[2] == "the clip has cuts"


def test_sharpness_falls_with_blur_and_not_with_size() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
    image = np.asarray(cv2.resize(noise, (256, 256)), np.uint8)
    corners = np.array([[10, 10], [240, 240]], np.float32)
    values = [sharpness(np.asarray(cv2.GaussianBlur(image, (0, 0), s), np.uint8), corners) for s in (0.4, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[0] > 3 * values[-1]
    large = np.asarray(cv2.resize(image, (1024, 1024), interpolation=cv2.INTER_CUBIC), np.uint8)
    assert sharpness(large, 4 * corners) == pytest.approx(sharpness(image, corners), rel=0.35)
    assert sharpness(image, np.zeros((3, 2), np.float32)) == 0, "no face, no detail"


def test_yaw_of_known_turns() -> None:
    frontal = np.diag([1.0, -1, -1])
    angle = np.radians([-40, 0, 25])
    turn = np.stack([[[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]] for a in angle])
    np.testing.assert_allclose(head_yaw((frontal @ turn).astype(np.float32)), [-40, 0, 25], atol=1e-3)


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head("open")


def test_mesh_lies_where_the_camera_puts_it(head: Head) -> None:
    view = MeshView(head, still_fit(head, 2, 96), 96)
    drawing, silhouette = view.draw(1), view.silhouette(1)
    pixels, _ = view.pixels(view.vertices(1), 1)
    rows, columns = np.nonzero(drawing.covered)
    # The picture spans the projected vertices, to the pixel that a vertex can lie beside its triangle's centre.
    np.testing.assert_allclose([columns.min(), rows.min()], pixels.min(axis=0), atol=1.5)
    np.testing.assert_allclose([columns.max(), rows.max()], np.minimum(pixels.max(axis=0), 95), atol=1.5)
    assert drawing.head.sum() < drawing.covered.sum(), "the lower neck is no part of the head"
    assert not (drawing.head & (silhouette == 0)).any()
    nose = view.pixels(head.v_template[head.v_template[:, 2].argmax()][None].numpy(), 1)[0][0].astype(int)
    assert drawing.brightness[nose[1], nose[0]] > 204, "the tip of the nose looks at the camera"


def test_stages_draw_a_fit_once(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = still_fit(head, 2, 480)
    view, fresh = MeshView.of_stages(head, fit, 480, tmp_path), MeshView(head, fit, 480, 384)
    wanted = fresh.draw(1)
    assert view.silhouette(1).shape == (480, 480)
    monkeypatch.setattr(mesh_view, "nearest_surface", None)
    found = MeshView.of_stages(head, fit, 480, tmp_path).draw(1)
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value, name)
    with pytest.raises(TypeError):
        view.draw(0)  # nobody has drawn it


def test_silhouette_drawn_small_is_that_of_the_picture(head: Head) -> None:
    fit = still_fit(head, 1, 480)
    small, whole = MeshView(head, fit, 480, 384).silhouette(0), MeshView(head, fit, 480).silhouette(0)
    # A pixel of the small drawing is 1.25 of the picture's, and a straight line between two of them reaches 2 far.
    border = cv2.morphologyEx((whole > 0).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
    assert np.abs(small - whole)[~border].max() < 0.05 and border.mean() < 0.05  # GUESSED beside 1
    assert np.mean((small >= 0.5) != (whole >= 0.5)) < 0.002


def test_parts_of_the_head(head: Head) -> None:
    drawing = MeshView(head, still_fit(head, 1, 96), 96).draw(0)
    rows, columns = np.nonzero(drawing.part == EARS)
    assert set(columns < 48) == {True, False}, "an ear on either side"
    skull = np.nonzero(drawing.part == SKULL)[0]
    assert skull.mean() < rows.mean() < np.nonzero(drawing.head & (drawing.part == 0))[0].max()
    assert drawing.part[48, 48] == 0, "the face is neither"


def test_head_that_reaches_out_of_the_person(head: Head) -> None:
    drawing = MeshView(head, still_fit(head, 1, 96), 96).draw(0)
    hair = cv2.dilate(drawing.head.astype(np.uint8), np.ones((7, 7))) > 0
    assert reach_out(drawing, hair) == (0, 0)
    top = np.nonzero(drawing.head)[0].min()
    flat = hair.copy()
    flat[: top + 10] = False
    skull, ears = reach_out(drawing, flat)
    # The highest row of the skull lies 10 rows out; nearly so the 98th percentile, for the crown is blunt.
    assert 6 < skull * np.sqrt(drawing.head.sum()) < 10.5
    assert ears == 0
    shaved = hair & ~(drawing.part == EARS)
    assert reach_out(drawing, shaved)[1] > 0.01
    assert np.isnan(reach_out(drawing, np.zeros_like(hair))).all()


def test_preview_shows_footage_mesh_and_matte(head: Head) -> None:
    view = MeshView(head, still_fit(head, 1, 96), 96, size=48)
    rgb = np.asarray(picture((), width=96, height=96), np.uint8)
    alpha = np.zeros((96, 96), np.uint8)
    alpha[:48] = 255
    landmarks = np.full((478, 2), 24.0, np.float32)
    frame = preview_frame(view.draw(0), rgb, alpha, landmarks)
    assert frame.shape == (48, 144, 3) and frame.dtype == np.uint8
    assert frame[12, 12].tolist() == [70, 255, 90], "landmarks are scaled with the panel"
    assert frame[24, 48 + 24, 2] > frame[24, 48 + 24, 0] + 30, "the head is tinted"
    assert np.abs(frame[2, 96:98].astype(int) - 90).max() < 12 and frame[45, 100].tolist() == [52, 150, 84]


def test_error_plot_is_written(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    write_error_plot(path, np.arange(FRAMES) / 25, quality(), [Dropped(3, 0.1, "no face found")], "clip: good")
    image = cv2.imread(str(path))
    assert image is not None and image.shape[0] > 500
    assert np.ptp(image) == 255

