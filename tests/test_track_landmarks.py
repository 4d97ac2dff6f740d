"""Whose face is followed: shots, several people, gaps, borders; and the detector itself where it is installed."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.track_videos import CLIPS, FACE_MODEL, PaintedFaceDetector, picture
from tracking import detector as detector_module
from tracking.crop import Crop, choose_crop, observe
from tracking.detection import one_by_one
from tracking.detector import DetectorUnavailable, MediaPipeDetector
from tracking.footage import ByteImage, Dropped, Picture, Span
from tracking.landmarks import (
    NoFaceError,
    Search,
    Track,
    _colour_shift,
    face_size,
    follow_face,
    look_for_faces,
    shots_of,
)
from tracking.records import BLENDSHAPE_NAMES, LANDMARKS
from tracking.video import open_footage

FaceList = list[tuple[float, float, float]]


def search_in(images: list[ByteImage]) -> Search:
    pictures = (Picture(i, i / 25, image) for i, image in enumerate(images))
    return look_for_faces(one_by_one(pictures, PaintedFaceDetector(), lambda: None))


def follow(images: list[ByteImage], shot: int = 0) -> tuple[Track, list[Dropped], list[str]]:
    dropped: list[Dropped] = []
    notes: list[str] = []
    return follow_face(search_in(images), shot, dropped, notes), dropped, notes


def middle(track: Track) -> np.ndarray:
    return (track.points[:, :, :2].max(axis=1) + track.points[:, :, :2].min(axis=1)) / 2


def test_one_moving_face_is_followed() -> None:
    track, dropped, notes = follow([picture(((60 + i, 60, 30),), seed=i) for i in range(20)])
    np.testing.assert_allclose(middle(track)[:, 0], 60 + np.arange(20), atol=1)
    assert dropped == [] and notes == []
    assert (track.others == 0).all() and (track.width, track.height) == (160, 120)


def test_largest_face_is_kept_where_another_is_larger_for_a_while() -> None:
    def faces(i: int) -> FaceList:
        return [(45, 60, 28), (120, 60, 34 if 5 <= i < 8 else 16)]

    track, dropped, _ = follow([picture(faces(i), seed=i) for i in range(20)])
    np.testing.assert_allclose(middle(track)[:, 0], 45, atol=1.5)
    assert dropped == [] and (track.others == 1).all()


def test_another_face_does_not_stand_in_for_the_followed_one() -> None:
    def faces(i: int) -> FaceList:
        return [(45, 60, 28) if not 5 <= i < 9 else (-200, 0, 1), (125, 60, 16)]

    track, dropped, _ = follow([picture(faces(i), seed=i) for i in range(20)])
    np.testing.assert_allclose(middle(track)[:, 0], 45, atol=1.5)
    assert [d.index for d in dropped] == [5, 6, 7, 8]
    assert {d.reason for d in dropped} == {"the followed face is not seen, another is"}


def test_pictures_without_a_face_are_left_out_and_the_face_is_found_again() -> None:
    images = [picture(() if i in (4, 5) else ((80 + i, 60, 30),), seed=i) for i in range(12)]
    track, dropped, _ = follow(images)
    assert track.index.tolist() == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    assert [(d.index, d.reason) for d in dropped] == [(4, "no face found"), (5, "no face found")]
    assert dropped[0].time == pytest.approx(4 / 25)


def test_face_cut_off_by_the_border_is_left_out() -> None:
    track, dropped, _ = follow([picture(((80 if i < 6 else 0, 60, 30),), seed=i) for i in range(8)])
    assert len(track) == 6
    assert {d.reason for d in dropped} <= {"the face is cut off by the picture's border",
                                           "the followed face is not seen, another is"}
    with pytest.raises(NoFaceError, match="cut off by the picture's border throughout"):
        follow([picture(((-28, 60, 40),), seed=i) for i in range(4)])


def test_cut_splits_the_clip_and_the_longest_shot_is_taken() -> None:
    first = [picture(((50, 60, 30),), background=60, seed=i) for i in range(8)]
    second = [picture(((110, 50, 24),), background=200, seed=i) for i in range(14)]
    track, dropped, notes = follow(first + second)
    assert track.index.tolist() == list(range(8, 22))
    assert len(dropped) == 8 and {d.reason for d in dropped} == {"another shot"}
    assert len(notes) == 1 and "cuts (at 0.3 s); shot 2 of 2 was taken, from 0.3 to 0.8 s" in notes[0]
    assert follow(first + second, shot=1)[0].index.tolist() == list(range(8))
    with pytest.raises(ValueError, match=r"--shot: 0 \(the longest\) to 2 expected, .* got 3"):
        follow(first + second, shot=3)


def test_fast_motion_and_changing_light_are_no_cuts() -> None:
    swing = [picture(((80 + 30 * np.sin(i), 60, 30),), background=90 + 4 * i, seed=i) for i in range(20)]
    assert len(shots_of(search_in(swing).sightings)) == 1


def test_clip_without_a_face() -> None:
    with pytest.raises(NoFaceError, match=r"no face was found in any of the 3 pictures .* well lit, upright"):
        follow([picture((), seed=i) for i in range(3)])


def test_crop_holds_the_head_and_maps_points_as_pixels() -> None:
    track, _, _ = follow([picture(((90 + i, 70, 20),), width=320, height=240, seed=i) for i in range(10)])
    crop = choose_crop(track, 128)
    assert crop.left >= 0 and crop.top >= 0 and crop.left + crop.side <= 320 and crop.top + crop.side <= 240
    observations = observe(track, crop)
    assert observations.size == 128 and len(observations) == 10
    # A face size to each side of the face's middle lies within.
    size = face_size(track.points) * crop.scale
    centre = observations.landmarks.mean(axis=1)
    assert (centre[:, 0] - 0.8 * size > 0).all() and (centre[:, 0] + 0.8 * size < 128).all()
    # The disc in the cut picture lies where the landmarks say.
    image = crop.cut(picture(((90, 70, 20),), width=320, height=240))
    rows, columns = np.nonzero((image[..., 0] > 180) & (image[..., 1] < 120))
    disc = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
    box = (observations.landmarks[0].max(axis=0) + observations.landmarks[0].min(axis=0)) / 2
    np.testing.assert_allclose(disc, box, atol=1.0)  # half a pixel of the footage is 0.9 of the crop


def test_crop_stays_inside_a_tight_portrait_and_pads_only_when_it_must() -> None:
    tight, _, _ = follow([picture(((60, 80, 40),), width=120, height=160, seed=i) for i in range(4)])
    crop = choose_crop(tight, 64)
    assert crop.left == 0 and crop.side == 120 and 0 <= crop.top <= 40
    assert crop.inside(120, 160).all()
    beyond = Crop(-10, 0, 40, 40)
    image = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(40, 30, 3)
    cut = beyond.cut(image)
    np.testing.assert_array_equal(cut[:, 10:], image)
    np.testing.assert_array_equal(cut[:, :10], np.repeat(image[:, :1], 10, axis=1))
    inside = beyond.inside(30, 40)
    assert (inside[:, :10] == 0).all() and (inside[:, 10:] == 255).all()


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("mediapipe"):
            raise ImportError("No module named 'mediapipe'")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DetectorUnavailable, match=r"pip install --no-deps -r requirements-tracking\.txt"):
        MediaPipeDetector(FACE_MODEL)


def test_a_missing_system_library_is_not_the_models_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vision = pytest.importorskip("mediapipe.tasks.python.vision")

    def create(_options: Any) -> None:
        raise OSError("libEGL.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(vision.FaceLandmarker, "create_from_options", create)
    (tmp_path / "any.task").write_bytes(b"not read")
    with pytest.raises(DetectorUnavailable, match=r"libEGL\.so\.1: cannot open.*apt install libegl1 libgles2"):
        MediaPipeDetector(tmp_path / "any.task")


def test_wrong_model_files(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    with pytest.raises(FileNotFoundError, match=r"gone\.task: no such file \(--face_model names a copy"):
        MediaPipeDetector(tmp_path / "gone.task")
    (tmp_path / "bad.task").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"bad\.task: a FaceLandmarker model \(\.task\) is expected"):
        MediaPipeDetector(tmp_path / "bad.task")


@pytest.mark.skipif(not FACE_MODEL.is_file(), reason="the face model is not beside the project")
@pytest.mark.skipif(not (CLIPS / "driving_d10").is_dir(), reason="no real clip beside the project")
def test_real_face_is_found_with_all_scores(capfd: pytest.CaptureFixture[str]) -> None:
    mediapipe = pytest.importorskip("mediapipe")
    pictures = open_footage(CLIPS / "driving_d10" / "source.mp4").pictures(Span(end=0.3))
    with MediaPipeDetector(FACE_MODEL) as detector:
        search = look_for_faces(one_by_one(pictures, detector, lambda: None))
        track = follow_face(search, 0, [], [])
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=next(iter(
            open_footage(CLIPS / "driving_d10" / "source.mp4").pictures(Span()))).rgb)
        names = [b.category_name for b in detector._landmarker.detect_for_video(image, 9999).face_blendshapes[0]]
    assert tuple(names) == BLENDSHAPE_NAMES
    assert len(track) == 9 and track.points.shape == (9, LANDMARKS, 3)
    # The face fills about half of the 512-pixel clip and lies in its middle.
    assert (np.abs(middle(track) - 256) < 60).all()
    assert (np.abs(face_size(track.points) - 290) < 60).all()
    assert capfd.readouterr().err == "", "MediaPipe's own messages must not break the progress bars"


def test_model_declares_a_checksum_of_256_bits() -> None:
    assert len(bytes.fromhex(detector_module.FACE_MODEL.sha256)) == 32


def test_the_shift_of_colours_is_how_far_their_sorted_values_move() -> None:
    generator = np.random.default_rng(3)
    first = generator.integers(0, 256, (64, 64, 3), np.uint8)
    second = (generator.integers(0, 256, (64, 64, 3)) // np.array([1, 2, 3])).astype(np.uint8)
    ranked = [np.sort(image.reshape(-1, 3).astype(np.float64), axis=0) for image in (first, second)]
    assert _colour_shift(first, second) == pytest.approx(float(np.abs(ranked[0] - ranked[1]).mean()), rel=1e-12)
    assert _colour_shift(first, np.rot90(first)) == 0
