"""track.py from the footage to the data set: what it writes, every bad input, resuming. Painted faces, own detector."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import track
from arguments import parse_flags
from arguments.track_settings import TrackSettings
from flame import load_head
from scene.readers import open_source
from tests.track_videos import (
    FACE_MODEL,
    HEIGHT,
    WIDTH,
    PaintedFaceDetector,
    moving_face,
    picture,
    write_audio,
    write_clip,
)
from tracking import pipeline
from tracking.detector import Face
from tracking.footage import ByteImage, FootageError
from tracking.landmark_fit import FitSettings
from tracking.landmarks import NoFaceError
from tracking.look import TooFewFramesError
from tracking.photometric_fit import RefineSettings, refine_clip
from tracking.pipeline import track_video
from tracking.records import Fit
from tracking.run import Outcome
from tracking.workspace import PictureStore, Workspace, load_table

SIZE = 64
CPU = torch.device("cpu")


def box_matte(
    images: Callable[[int], ByteImage], count: int, head_masks: Callable[[int], np.ndarray], *_: object, **__: object
) -> Iterator[ByteImage]:
    """Instead of the real matte, which has its own tests and takes its time: the fitted head itself."""
    for index in range(count):
        assert images(index).shape == (SIZE, SIZE, 3)
        yield np.rint(255 * head_masks(index)).astype(np.uint8)


@pytest.fixture(autouse=True, scope="module")
def quick_stages() -> Iterator[None]:
    """A few steps of the fits instead of all, and the matte above: what they are worth is tested elsewhere."""
    def refine_little(*arguments: Any) -> Fit:
        head, fit, observations, images, _, device, progress = arguments
        return refine_clip(head, fit, observations, images, RefineSettings(((3.0, 3),), 1, 1), device, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "matte_clip", box_matte)
        patch.setattr(pipeline, "refine_clip", refine_little)
        patch.setattr(pipeline, "load_head", cache(load_head))
        patch.setattr(pipeline, "FitSettings", lambda: FitSettings(iterations=2, shape_codes=4))
        yield


def settings(video: Path, output: Path, **changes: Any) -> TrackSettings:
    return replace(TrackSettings(video, output, size=SIZE), **changes)


def run(video: Path, output: Path, **changes: Any) -> Outcome:
    return track_video(settings(video, output, **changes), CPU, PaintedFaceDetector())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pictures with a face, 2 without, 4 with."""
    pictures = [*moving_face(12), picture((), seed=40), picture((), seed=41),
                *(picture(((82, 60, 30),), seed=50 + i) for i in range(4))]
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", pictures)


@pytest.fixture(scope="module")
def whole(clip: Path, quick_stages: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of the clip."""
    return run(clip, tmp_path_factory.mktemp("whole") / "data").folder


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_data_set_is_complete_and_readable(clip: Path, tmp_path: Path) -> None:
    outcome = run(clip, tmp_path / "data")
    assert (outcome.frames, outcome.dropped) == (16, 2)
    assert list(outcome.seconds) == ["landmarks", "crop", "fit", "refine", "matte", "write"]
    assert leftovers(tmp_path) == ["data"], "nothing but the data set is left"
    assert leftovers(outcome.folder) == ["canonical.obj", "checkpoint", "head.json", "images", "preview.mp4",
                                         "tracking.json", "tracking_error.png"]
    source = open_source(outcome.folder)
    assert len(source.frames) == 16 and source.head == "open"
    assert source.mesh is not None
    frame = source.frames[7]
    assert (frame.camera.width, frame.camera.height) == (SIZE, SIZE)
    assert frame.tracking.expression.shape == (100,) and frame.tracking.shape.shape == (300,)
    # The head stands before the camera and the camera looks at it.
    assert 0.2 < frame.camera.t[2] < 3 and abs(frame.camera.t[0]) < 0.1
    rgba = cv2.imread(str(frame.image_path), cv2.IMREAD_UNCHANGED)
    assert rgba is not None and rgba.shape == (SIZE, SIZE, 4)
    red = rgba[SIZE // 2, SIZE // 2]
    assert red[2] > 190 and red[0] < 110 and red[3] == 255, "the face is in the middle and opaque"
    assert rgba[1, 1, 3] == 0, "the corner is not"


def test_report_tells_frames_settings_and_versions(whole: Path) -> None:
    report = json.loads((whole / "tracking.json").read_text())
    assert [frame["source_frame"] for frame in report["frames"]] == [*range(12), *range(14, 18)]
    assert report["frames"][12]["time"] == pytest.approx(14 / 25, abs=1e-3)
    assert [(d["index"], d["reason"]) for d in report["dropped"]] == [(12, "no face found"), (13, "no face found")]
    assert report["settings"]["size"] == SIZE and report["head"] == "open_head"
    assert report["software"]["numpy"] == np.__version__
    assert report["verdict"]["word"] == "poor" and "16 pictures only" in " ".join(report["verdict"]["reasons"])
    assert set(report["frames"][0]) >= {"landmark_error", "sharpness", "yaw", "matte_area", "face_pixels", "others"}


def test_high_resolution_crops(tmp_path: Path) -> None:
    pictures = [picture(((160, 120, 60),), width=320, height=240, seed=i) for i in range(12)]
    outcome = run(write_clip(tmp_path / "a.mp4", pictures), tmp_path / "data", hr=True)
    small, large = open_source(outcome.folder), open_source(outcome.folder, "hr")
    ratio = large.frames[0].camera.width / SIZE
    assert ratio > 2
    np.testing.assert_allclose(large.frames[3].camera.K[0, 0], ratio * small.frames[3].camera.K[0, 0], rtol=1e-5)


def test_portrait_video_from_a_phone(tmp_path: Path) -> None:
    pictures = [np.rot90(picture(((60 + i % 3, 70, 30),), width=120, height=160, seed=i)) for i in range(12)]
    outcome = run(write_clip(tmp_path / "a.mp4", pictures, rotation=-90), tmp_path / "data")
    report = load_table(outcome.folder / "tracking.json")
    assert (report["source"]["width"], report["source"]["height"]) == (120, 160)
    camera = open_source(outcome.folder).frames[0].camera
    up = camera.R @ np.array([0, 1, 0])
    assert up[1] < -0.8, "the head stands upright in the picture"


def test_footage_with_alpha_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    ramp = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    for i, image in enumerate(moving_face(12)):
        cv2.imwrite(str(folder / f"{i}.png"), np.dstack([image[..., ::-1], ramp]))
    outcome = run(folder, tmp_path / "data")
    assert any("own alpha channel" in reason for reason in outcome.verdict.reasons)
    rgba = cv2.imread(str(outcome.folder / "images" / "00000.png"), cv2.IMREAD_UNCHANGED)
    assert rgba is not None
    crop = load_table(outcome.folder / "tracking.json")["crop"]
    column = (np.arange(SIZE) + 0.5) * crop["side"] / SIZE + crop["left"] - 0.5
    expected = np.interp(column, np.arange(WIDTH), ramp[0])
    np.testing.assert_allclose(rgba[SIZE // 2, :, 3], expected, atol=3)  # resampling and rounding


# Bad input: a sentence that says what to do, and nothing left behind.


def bad_inputs() -> list[Any]:
    def no_face(folder: Path) -> Path:
        return write_clip(folder / "in.mp4", [picture((), seed=i) for i in range(15)])

    def five_frames(folder: Path) -> Path:
        return write_clip(folder / "in.mp4", moving_face(5))

    def photo(folder: Path) -> Path:
        cv2.imwrite(str(folder / "in.jpg"), picture())
        return folder / "in.jpg"

    def truncated(folder: Path) -> Path:
        path = write_clip(folder / "in.mp4", moving_face(15))
        path.write_bytes(path.read_bytes()[:3000])
        return path

    def hidden_face(folder: Path) -> Path:
        return write_clip(folder / "in.mp4", [picture(((80, 60, 30),) if i < 8 else (), seed=i) for i in range(20)])

    def frozen(folder: Path) -> Path:
        path = folder / "in"
        path.mkdir()
        for i in range(15):
            cv2.imwrite(str(path / f"{i}.png"), picture()[..., ::-1])
        return path

    return [
        pytest.param(no_face, NoFaceError, r"in\.mp4: no face was found in any of the 15 pictures", id="no face"),
        pytest.param(five_frames, TooFewFramesError,
                     r"only 5 usable pictures of 5 looked at .* at least 10 are needed", id="5 frames"),
        pytest.param(hidden_face, TooFewFramesError, r"only 8 usable pictures of 20 .*12 x no face found", id="hidden"),
        pytest.param(frozen, TooFewFramesError, r"only 1 usable .*14 x repeated pictures", id="frozen"),
        pytest.param(photo, FootageError, r"in\.jpg: a photo; .* Film 10 seconds or more", id="photo"),
        pytest.param(lambda f: write_audio(f / "in.wav"), FootageError, r"in\.wav: an audio file", id="audio"),
        pytest.param(truncated, FootageError, r"in\.mp4: neither video nor image .* cut short", id="truncated"),
        pytest.param(lambda f: f / "in.mp4", FileNotFoundError, r"in\.mp4: no such file or folder", id="missing"),
    ]


@pytest.mark.parametrize(("make", "kind", "message"), bad_inputs())
def test_bad_input(make: Callable[[Path], Path], kind: type[Exception], message: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    video = make(tmp_path / "in")
    with pytest.raises(kind, match=message):
        run(video, tmp_path / "out" / "data")
    assert not (tmp_path / "out").exists() or leftovers(tmp_path / "out") == []


def test_two_people_and_a_cut_are_told(tmp_path: Path) -> None:
    def faces(i: int) -> list[tuple[float, float, float]]:
        return [(60, 60, 28), (125, 60, 16)]

    pictures = [picture(faces(i), seed=i) for i in range(14)]
    pictures += [picture(((80, 60, 24),), background=220, seed=i) for i in range(5)]
    outcome = run(write_clip(tmp_path / "a.mp4", pictures), tmp_path / "data")
    reasons = " ".join(outcome.verdict.reasons)
    assert outcome.frames == 14 and outcome.dropped == 5
    assert "other people are seen in 100% of the pictures" in reasons
    assert "cuts (at 0.6 s); shot 1 of 2 was taken" in reasons


def test_empty_time_span(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(TooFewFramesError, match=r"no picture lies between --start 60.* and --end None"):
        run(clip, tmp_path / "data", start=60.0)


def test_output_that_is_taken(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="mine: exists and was not written by track.py"):
        run(clip, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").is_file()
    run(clip, tmp_path / "data")
    with pytest.raises(FileExistsError, match="data: holds a tracked data set; replace it with --overwrite True"):
        run(clip, tmp_path / "data")
    assert run(clip, tmp_path / "data", overwrite=True, end=0.45).frames == 12
    assert len(list((tmp_path / "data" / "images").iterdir())) == 12
    assert leftovers(tmp_path) == ["data", "mine"]


# An interrupted run.


def stop_after(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The user's Ctrl-C when the stage after `name` begins."""
    def interrupt(*rest: object) -> None:
        raise KeyboardInterrupt

    following = {"landmarks": "choose_crop", "crop": "fit_landmarks", "fit": "refine_clip", "refine": "cut_out_head",
                 "matte": "write_all"}
    monkeypatch.setattr(pipeline, following[name], interrupt)


@pytest.mark.parametrize("stage", ["landmarks", "crop", "fit", "refine", "matte"])
def test_interrupted_run_is_resumed(
    clip: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stop_after(stopped, stage)
        run(clip, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    detector = PaintedFaceDetector()
    outcome = track_video(settings(clip, tmp_path / "data", resume=True), CPU, detector)
    assert detector.calls == 0, "the landmarks were kept"
    assert (outcome.frames, outcome.dropped) == (16, 2) and "landmarks" not in outcome.seconds
    for kind in ("checkpoint", "images"):
        for path in sorted((whole / kind).iterdir()):
            assert path.read_bytes() == (tmp_path / "data" / kind / path.name).read_bytes(), path.name
    assert leftovers(tmp_path) == ["data"]


def test_half_a_matte_is_done_again(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(*arguments: Any) -> Iterator[ByteImage]:
        for index, matte in enumerate(box_matte(*arguments)):
            if index == 5:
                raise KeyboardInterrupt
            yield matte

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(pipeline, "matte_clip", half)
        run(clip, tmp_path / "data")
    outcome = run(clip, tmp_path / "data", resume=True)
    assert len(list((outcome.folder / "images").iterdir())) == 16


def test_resume_with_other_flags_is_refused(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stop_after(stopped, "landmarks")
        run(clip, tmp_path / "data")
    with pytest.raises(ValueError, match="--resume: the interrupted run was started with other fps, size"):
        run(clip, tmp_path / "data", resume=True, size=SIZE * 2, fps=5.0)
    assert run(clip, tmp_path / "data").frames == 16, "without --resume it starts anew"


def test_damaged_stage_results_are_named(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stop_after(stopped, "landmarks")
        run(clip, tmp_path / "data")
    (tmp_path / ".data.tracking" / "track.npz").write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match=r"track\.npz: not a readable record of Track .* without --resume"):
        run(clip, tmp_path / "data", resume=True)
    job = Workspace(tmp_path / "other", {}, False, False).file("job.json")
    job.write_text("{")
    with pytest.raises(ValueError, match=r"job\.json: no readable record of an interrupted run"):
        Workspace(tmp_path / "other", {}, True, False)


def test_store_is_complete_only_when_finished(tmp_path: Path) -> None:
    store = PictureStore(tmp_path / "store")
    store.write(0, np.zeros((2, 2), np.uint8))
    assert not PictureStore(tmp_path / "store").complete
    store.finish()
    assert PictureStore(tmp_path / "store").complete
    colours = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    store.write(1, colours)
    np.testing.assert_array_equal(PictureStore(tmp_path / "store").read(1), colours)


# The command itself.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    program = (
        "import os, signal, sys, track\n"
        f"def stopped(*rest, **options): os.kill(os.getpid(), {int(number)}); signal.pause()\n"
        "track.look_at = stopped\n"
        f"sys.argv = ['track.py', {str(pictures)!r}, '-o', {str(tmp_path / 'data')!r}]\n"
        "track.main()\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(track.__file__).parent, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 128 + number
    assert "interrupted; continue with the same command and --resume" in done.stderr
    assert "Traceback" not in done.stderr


def test_face_missed_in_the_whole_picture_is_found_in_the_crop(tmp_path: Path) -> None:
    class ShortSighted(PaintedFaceDetector):
        def detect(self, rgb: ByteImage, time: float) -> list[Face]:
            return [] if 0.2 < time < 0.3 else super().detect(rgb, time)

    clip = write_clip(tmp_path / "a.mp4", moving_face(16))
    outcome = track_video(settings(clip, tmp_path / "data"), CPU, ShortSighted())
    assert (outcome.frames, outcome.dropped) == (16, 0)


@pytest.mark.parametrize(("arguments", "message"), [
    (["gone.mp4", "-o", "x"], r"track\.py: gone\.mp4: no such file or folder"),
    (["gone.mp4", "-o", "x", "--fps", "-1"], r"--fps: a positive number"),
    (["gone.mp4", "-o", "x", "--stat", "1"], r"unknown flag --stat\. Did you mean --start\?"),
])
def test_command_ends_with_a_sentence(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["track.py", *arguments])
    with pytest.raises(SystemExit, match=message):
        track.main()
    assert leftovers(tmp_path) == []


def test_missing_face_model_leaves_nothing(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mediapipe")
    monkeypatch.setattr("sys.argv", ["track.py", str(clip), "-o", str(tmp_path / "data"), "--face_model", "gone.task"])
    with pytest.raises(SystemExit, match=r"gone\.task: no such file \(--face_model names a copy"):
        track.main()
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(not FACE_MODEL.is_file(), reason="the face model is not beside the project")
def test_command_sees_no_face_in_a_painted_disc(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mediapipe")
    monkeypatch.setattr("sys.argv", ["track.py", str(clip), "-o", str(tmp_path / "data"),
                                     "--face_model", str(FACE_MODEL)])
    with pytest.raises(SystemExit, match="no face was found in any of the 18 pictures"):
        track.main()
    assert leftovers(tmp_path) == []


def test_flags_as_documented() -> None:
    parsed = parse_flags(TrackSettings, "track.py", ["v.mp4", "-o", "out", "--hr", "--refine", "False", "--end", "3"])
    assert (parsed.video, parsed.output, parsed.hr, parsed.refine, parsed.end) == (
        Path("v.mp4"), Path("out"), True, False, 3.0)
