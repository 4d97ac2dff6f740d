"""Several cameras: pictures of one moment, one motion before all of them, their places; known lenses; what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import track
from arguments.track_settings import LAYOUTS, TrackSettings
from flame import Head, load_head
from flame.rotations import matrix_from_axis_angle
from scene.readers import open_source
from scene.writers import WRITERS
from tests.track_clips import Truth, make_truth, observe
from tests.track_videos import PaintedFaceDetector, moving_face, picture, write_clip
from tests.tracked_head import write_tracked_head
from tracking import bundle, pipeline, several
from tracking.bundle import POSE, cost_and_gradient, normal_equations, total_cost
from tracking.footage import FootageError
from tracking.landmark_fit import FitSettings, clip_of, fit_views, state_of
from tracking.lens import CalibrationError
from tracking.look import TooFewFramesError
from tracking.photometric_fit import RefineSettings, refine_views
from tracking.pipeline import track_video
from tracking.records import Observations, Rig
from tracking.several import matching, together, track_cameras
from tracking.verdict import Verdict
from utils.images import encode_image, read_rgba

SIZE, FRAMES = 512, 14
CPU = torch.device("cpu")
FEW = FitSettings(shape_codes=20)


def turn(degrees: float) -> np.ndarray:
    return matrix_from_axis_angle(torch.tensor([[0.0, np.radians(degrees), 0.0]]))[0].numpy()


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head("open")


@pytest.fixture(scope="module")
def truth(head: Head) -> Truth:
    return make_truth(head, FRAMES, SIZE)


@pytest.fixture(scope="module")
def rig(truth: Truth) -> Rig:
    """Three cameras about the head, with other lenses."""
    K = [np.array([[f * truth.fit.K[0, 0], 0, 256], [0, f * truth.fit.K[0, 0], 256], [0, 0, 1]]) for f in (1, 1.2, 0.9)]
    R = np.stack([turn(degrees) for degrees in (0, 25, -30)])
    pivot = np.array([0, 0, 0.62])
    t = np.stack([pivot - r @ pivot for r in R]) + [[0, 0, 0], [0.01, 0, 0.05], [0, -0.02, 0]]
    return Rig(np.stack(K).astype(np.float32), R.astype(np.float32), t.astype(np.float32))


@pytest.fixture(scope="module")
def views(head: Head, truth: Truth, rig: Rig) -> list[Observations]:
    """What each camera sees; the second misses the face at first, the first in the end."""
    seen = [observe(head, replace(truth, fit=truth.fit.seen_by(rig, camera)), SIZE, 0.5, seed=camera)
            for camera in range(3)]
    seen[1].landmarks[:4] = np.nan
    seen[0].landmarks[-3:] = np.nan
    return seen


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """Degrees, RMS."""
    cosine = (np.trace(a @ np.swapaxes(b, -1, -2), axis1=-2, axis2=-1) - 1) / 2
    return float(np.sqrt(np.mean(np.degrees(np.arccos(np.clip(cosine, -1, 1))) ** 2)))


def known_lens(views: list[Observations], rig: Rig) -> list[Observations]:
    return [replace(view, focal=float(K[0, 0])) for view, K in zip(views, rig.K, strict=True)]


def test_one_motion_before_calibrated_cameras(
    head: Head, truth: Truth, rig: Rig, views: list[Observations]
) -> None:
    """All pictures of a moment agree on where the head is, also where the first camera does not see it."""
    fit, found = fit_views(head, known_lens(views, rig), rig, FEW)
    np.testing.assert_allclose(found.R, rig.R, atol=1e-5)
    np.testing.assert_allclose(found.t, rig.t, atol=1e-6)
    np.testing.assert_allclose(found.K[:, 0, 0], rig.K[:, 0, 0], rtol=1e-5)
    # Measured 1.0 degrees and 4 mm, which is how far the mean head's axes are from those of this identity.
    assert angle(fit.R, truth.fit.R) < 2
    assert np.linalg.norm(fit.t - truth.fit.t, axis=1).max() < 0.010
    assert np.linalg.norm(np.diff(fit.t - truth.fit.t, axis=0), axis=1).max() < 0.003  # measured 0.7 mm


def test_places_of_cameras_are_solved(head: Head, rig: Rig, views: list[Observations]) -> None:
    fit, found = fit_views(head, known_lens(views, rig), None, FEW)
    assert angle(found.R[1:], rig.R[1:]) < 1.0                            # measured 0.2 degrees
    assert np.abs(found.t[1:] - rig.t[1:]).max() < 0.015                  # measured 4 mm of 0.3 m
    np.testing.assert_array_equal(found.R[0], np.eye(3))
    assert np.median(fit.landmark_error) < 1.5


def test_cameras_that_never_see_the_face_together(head: Head, rig: Rig, views: list[Observations]) -> None:
    apart = [replace(view, landmarks=view.landmarks.copy()) for view in views[:2]]
    apart[0].landmarks[7:] = np.nan
    apart[1].landmarks[:7] = np.nan
    with pytest.raises(ValueError, match="camera 2 and camera 1 never see the face at one moment.*--calibration"):
        fit_views(head, apart, None, FEW)
    for view in apart:
        view.landmarks[3] = np.nan
    with pytest.raises(ValueError, match="moment 3: no camera sees the face"):
        fit_views(head, apart, Rig(*(a[:2] for a in (rig.K, rig.R, rig.t))), FEW)


def largest(values: Tensor) -> float:
    return float(values.abs().max())


def test_gradient_of_all_unknowns_is_that_of_the_cost(head: Head, views: list[Observations]) -> None:
    """Shape, focal lengths and places of the cameras, and the pose of a moment, by central differences of the cost."""
    clip = clip_of(head, views, replace(FEW, shape_codes=3), CPU)
    state, problem = clip.start, clip.problem
    equations = normal_equations(problem, state)
    frames, unknowns = equations.gradient.shape
    cost, *gradient = cost_and_gradient(problem, state)
    assert cost == pytest.approx(total_cost(problem, state), rel=1e-6)  # sums in float64 of float32 terms
    for found, wanted in zip(gradient, (equations.gradient, equations.shared_gradient), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0.003 * largest(wanted))  # bending is linearised
    for index, want in enumerate(equations.shared_gradient.tolist()):
        step = torch.zeros(state.shared)
        step[index] = 3e-4
        still, allowed = torch.zeros(frames, unknowns), 0.002 * largest(equations.shared_gradient)
        ends = [total_cost(problem, state.moved(still, sign * step, problem.low, problem.high)) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 6e-4 == pytest.approx(want, rel=0.02, abs=allowed)
    for index in range(POSE):
        step = torch.zeros(frames, unknowns)
        step[6, index] = 3e-4
        ends = [total_cost(problem, state.moved(sign * step, torch.zeros(state.shared), problem.low, problem.high))
                for sign in (1, -1)]
        want = equations.gradient[6]
        allowed = 0.003 * largest(want[:POSE])
        assert (ends[0] - ends[1]) / 6e-4 == pytest.approx(float(want[index]), rel=0.03, abs=allowed)


def test_threads_that_form_the_equations_write_nothing_in_common(
    head: Head, truth: Truth, views: list[Observations], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of several terms are of the same frames: were each thread to add its own, one could undo another's. What
    writes nothing can be done twice.
    """
    clip = clip_of(head, views, replace(FEW, shape_codes=3), CPU, rig)
    state = state_of(head, replace(truth.fit, shape=truth.fit.shape[:3]), CPU, rig)
    usual = normal_equations(clip.problem, state)

    def twice(work: Callable[[Any], Any], jobs: list[Any], threads: int) -> Iterator[Any]:
        for job in jobs:
            work(job)
            yield work(job)

    monkeypatch.setattr(bundle, "in_order", twice)
    for name, value in vars(normal_equations(clip.problem, state)).items():
        assert torch.equal(value, getattr(usual, name)), name


def test_refinement_by_all_cameras(head: Head, truth: Truth, rig: Rig, views: list[Observations]) -> None:
    """It keeps calibrated cameras where they are, and does not ask for pictures of no use: grey ones change nothing."""
    grey = np.full((SIZE, SIZE, 3), 90, np.uint8)
    fit, _ = fit_views(head, known_lens(views, rig), rig, replace(FEW, iterations=4))
    settings = RefineSettings(((3.0, 3),), 1, 2)
    refined, found = refine_views(head, fit, rig, known_lens(views, rig), [lambda _: grey] * 3, settings)
    np.testing.assert_allclose(found.R, rig.R, atol=1e-5)
    assert angle(refined.R, fit.R) < 1


def test_pictures_of_one_moment() -> None:
    slow, fast = np.arange(10) / 25, np.arange(30) / 50
    assert matching([slow, fast]).tolist() == [[i, 2 * i] for i in range(10)]
    assert matching([fast, slow]).tolist() == [[2 * i, i] for i in range(10)]
    late = slow + 0.004
    assert matching([slow, late, slow[:4]]).tolist() == [[i, i, i] for i in range(4)]  # the shortest ends it
    assert matching([slow, slow + 5]).shape == (0, 2)
    assert matching([slow, np.delete(slow, 3)])[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_the_worst_camera_decides() -> None:
    both = together(["a", "b"], [Verdict("good", ("fine",)), Verdict("poor", ("dark",))])
    assert both == Verdict("poor", ("a: fine", "b: dark"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps instead of all, and the fitted head as the matte."""
    def matte(images: Callable, count: int, masks: Callable, *rest: object) -> Any:
        return (np.rint(255 * masks(index)).astype(np.uint8) for index in range(count))

    monkeypatch.setattr(pipeline, "matte_clip", matte)
    monkeypatch.setattr(several, "FitSettings", lambda: FitSettings(iterations=2, shape_codes=4))
    monkeypatch.setattr(pipeline, "FitSettings", lambda: FitSettings(iterations=2, shape_codes=4))
    little = RefineSettings(((3.0, 3),), 1, 1)
    monkeypatch.setattr(several, "refine_views", lambda head, fit, rig, views, images, _, device, show, free:
                        refine_views(head, fit, rig, views, images, little, device, show, free))


def clips(folder: Path) -> tuple[Path, Path]:
    """A video of 16 pictures, and one of 13 by another camera, in which the face is hidden in two."""
    second = [*moving_face(5), picture((), seed=90), picture((), seed=91), *moving_face(13)[7:]]
    return write_clip(folder / "front.mp4", moving_face(16)), write_clip(folder / "side.mp4", second)


def run(folder: Path, **changes: Any) -> Any:
    front, side = clips(folder)
    settings = TrackSettings(front, folder / "data", size=64, camera=(side,), **changes)
    return track_cameras(settings, CPU, PaintedFaceDetector())


def test_data_set_of_two_cameras(quick: None, tmp_path: Path) -> None:
    outcome = run(tmp_path)
    assert outcome.frames == 2 * 13, "the moments that both videos have"
    assert {p.name for p in outcome.folder.iterdir()} == {"cameras", "canonical.obj", "head.json", "tracking.json"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "front.mp4", "side.mp4"]
    found = json.loads((outcome.folder / "tracking.json").read_text())
    for name in ("front", "side"):
        source = open_source(outcome.folder / "cameras" / name)
        assert len(source.frames) == 13
        # A moment in which this camera missed the face has its place from the other one.
        assert 0.2 < source.frames[5].camera.t[2] < 3
        assert found["cameras"][name]["frames_kept"] == 13
    first, second = (open_source(outcome.folder / "cameras" / name).frames[6] for name in ("front", "side"))
    np.testing.assert_array_equal(first.tracking.expression, second.tracking.expression)
    R, t = np.array(found["rig"]["R"][1]), np.array(found["rig"]["t"][1])
    np.testing.assert_allclose(second.camera.t, R @ first.camera.t + t, atol=1e-4)
    assert found["cameras"]["side"]["frames"][5]["face_pixels"] is None
    assert outcome.verdict.word == "poor" and any(reason.startswith("side: ") for reason in outcome.verdict.reasons)


def test_calibrated_cameras(quick: None, tmp_path: Path) -> None:
    lens: dict[str, Any] = {"camera_matrix": [[300, 0, 79.5], [0, 300, 59.5], [0, 0, 1]], "image_width": 160,
                            "image_height": 120, "R": np.eye(3).tolist(), "t": [0, 0, 0]}
    (tmp_path / "rig.json").write_text(json.dumps({"cameras": {"front": lens, "side": lens | {"t": [0.1, 0, 0]}}}))
    outcome = run(tmp_path, calibration=tmp_path / "rig.json", refine=False)
    found = json.loads((outcome.folder / "tracking.json").read_text())
    np.testing.assert_allclose(np.array(found["rig"]["t"]), np.array([[0, 0, 0], [0.1, 0, 0]]), atol=1e-6)
    scale = found["cameras"]["front"]["crop"]["size"] / found["cameras"]["front"]["crop"]["side"]
    assert found["cameras"]["front"]["focal"] == pytest.approx(300 * scale, rel=1e-4)


def test_known_lens_of_one_camera(quick: None, tmp_path: Path) -> None:
    """K of every picture is the calibration's, in pixels of the crop; the principal point is not the crop's middle."""
    lens = {"camera_matrix": [[300, 0, 79.5], [0, 300, 39.5], [0, 0, 1]], "image_width": 160, "image_height": 120}
    (tmp_path / "lens.json").write_text(json.dumps(lens))
    settings = TrackSettings(clips(tmp_path)[0], tmp_path / "data", size=64, intrinsics=tmp_path / "lens.json",
                             refine=False)
    written: list[list[str]] = []
    outcome = track_video(settings, CPU, PaintedFaceDetector(),
                          lambda folder: written.append(sorted(p.name for p in folder.iterdir())))
    assert len(written) == 1 and {"checkpoint", "images"} <= set(written[0]), "other layouts are written from all of it"
    crop = json.loads((outcome.folder / "tracking.json").read_text())["crop"]
    scale = 64 / crop["side"]
    wanted = [[300 * scale, 0, (80 - crop["left"]) * scale], [0, 300 * scale, (40 - crop["top"]) * scale], [0, 0, 1]]
    for frame in open_source(outcome.folder).frames:
        np.testing.assert_allclose(frame.camera.K, np.array(wanted), rtol=1e-5)


def test_mattes_that_exist(quick: None, tmp_path: Path) -> None:
    """They are taken as they are, wherever the pictures left out lie; one too few is told."""
    mattes = tmp_path / "mattes"
    mattes.mkdir()
    for index in range(13):
        image = np.full((120, 160, 3), 40, np.uint8)
        image[40:80, 60:100] = 200 + index
        (mattes / f"{index}.png").write_bytes(encode_image(image, ".png"))
    settings = TrackSettings(clips(tmp_path)[1], tmp_path / "data", size=64, alpha=mattes, refine=False)
    outcome = track_video(settings, CPU, PaintedFaceDetector())
    alphas = [read_rgba(frame.image_path)[..., 3] for frame in open_source(outcome.folder).frames]
    # Pictures 5 and 6 show no face. In the middle of the face the matte is flat, so resizing keeps its value.
    assert [alpha.max() for alpha in alphas] == [200 + index for index in range(13) if index not in (5, 6)]
    (mattes / "12.png").unlink()
    again = replace(settings, output=tmp_path / "again")
    with pytest.raises(FootageError, match="mattes: no matte of picture 12 of side.mp4"):
        track_video(again, CPU, PaintedFaceDetector())
    (mattes / "3.png").write_bytes(encode_image(np.zeros((60, 80, 3), np.uint8), ".png"))
    with pytest.raises(FootageError, match="80 x 60|got 80 x 60|160 x 120"):
        track_video(again, CPU, PaintedFaceDetector())


def test_what_is_wrong_with_several_cameras(quick: None, tmp_path: Path) -> None:
    (tmp_path / "rig.json").write_text("{}")
    with pytest.raises(CalibrationError, match='"cameras"'):
        run(tmp_path, calibration=tmp_path / "rig.json")
    assert not (tmp_path / ".data.tracking").exists()
    front = tmp_path / "front.mp4"
    late = write_clip(tmp_path / "late.mp4", [picture((), seed=i) for i in range(10)] + moving_face(12))
    settings = TrackSettings(front, tmp_path / "data", size=64, camera=(late,), end=0.4)
    with pytest.raises(ValueError, match=r"late.mp4: no face was found"):
        track_cameras(settings, CPU, PaintedFaceDetector())
    short = write_clip(tmp_path / "short.mp4", moving_face(16), times=[i / 400 for i in range(16)])
    with pytest.raises(TooFewFramesError, match="front.mp4, short.mp4: only . moments in common.*the same moment"):
        track_cameras(replace(settings, camera=(short,), end=None), CPU, PaintedFaceDetector())
    assert not (tmp_path / ".data.tracking").exists(), "nothing worth resuming is left"


@pytest.mark.parametrize("changes, message", [
    ({"camera": (Path("b/a.mp4"),)}, "cameras are named after their files, whose names must differ; got a, a"),
    ({"calibration": Path("rig.json")}, "--calibration is for several cameras"),
    ({"camera": (Path("b.mp4"),), "alpha": Path("mattes")}, "--alpha is for one camera"),
    ({"camera": (Path("b.mp4"),), "intrinsics": Path("lens.json")}, "--intrinsics is for one camera"),
])
def test_flags_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrackSettings(Path("a.mp4"), Path("data"), **changes)


def test_data_set_in_the_layouts_of_others(tmp_path: Path) -> None:
    """What is written beside ours holds the same codes and the same places of the head before the camera."""
    folder = write_tracked_head(tmp_path / "data", 4)
    track.write_others(folder, ("vhap", "metrical", "flame_params"))
    ours, head = open_source(folder), load_head("open")
    for name in ("vhap", "flame_params"):
        theirs = open_source(folder / name)
        if theirs.pending is not None:
            theirs = theirs.completed(head)
        assert len(theirs.frames) == 4
        for one, other in zip(ours.frames, theirs.frames, strict=True):
            expression = other.tracking.expression[:head.n_expression]
            np.testing.assert_allclose(expression, one.tracking.expression[:head.n_expression], atol=1e-5)
            np.testing.assert_allclose(other.camera.R, one.camera.R, atol=1e-4)
            np.testing.assert_allclose(other.camera.t, one.camera.t, atol=1e-4)
            np.testing.assert_allclose(other.camera.K, one.camera.K, rtol=1e-4)
    assert not (folder / "metrical").exists()


def test_layouts_of_others() -> None:
    assert set(LAYOUTS) == set(WRITERS), "the flag is checked before the writers are imported"
    track.check_layouts(("vhap", "metrical", "flame_params"), False)
    track.check_layouts(("vhap",), True)
    with pytest.raises(ValueError, match="--write maya: unknown; known are .*vhap, "):
        track.check_layouts(("maya",), False)
    with pytest.raises(ValueError, match="--write flame_params: has room for one camera only"):
        track.check_layouts(("flame_params",), True)
