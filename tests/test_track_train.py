"""track.py --train: from the footage to the avatar in one command, interrupted and resumed, and every bad flag."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from safetensors.torch import load_file

import flame
import track
import train
from arguments.track_settings import TrackSettings
from tests.test_track_pipeline import SIZE, box_matte, leftovers
from tests.track_videos import PaintedFaceDetector, moving_face, write_clip
from tracking import look, pipeline
from tracking.landmark_fit import FitSettings
from tracking.run import Means
from tracking.workers import Workers

TRAINING = ("--iterations 6 --test_frames 3 --num_face_gaussians 300 --num_teeth_gaussians 20 --num_expressions 20 "
            "--batch_size 1 --test_views 2 --tensorboard False")


class Opened(PaintedFaceDetector):
    """Stands in for MediaPipe's, as `tracking.look` opens it."""

    def __init__(self, model: Path | None = None) -> None:
        super().__init__()

    def another(self) -> Opened:
        return Opened()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture(autouse=True, scope="module")
def quick_stages() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(look, "MediaPipeDetector", Opened)
        patch.setattr(pipeline, "matte_clip", box_matte)
        patch.setattr(flame, "load_head", cache(flame.load_head))
        patch.setattr(pipeline, "FitSettings", lambda: FitSettings(iterations=2, shape_codes=4))
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "a.mp4", moving_face(60))


def call(main: object, name: str, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [name, *map(str, arguments)])
        main()  # type: ignore[operator]


def command(clip: Path, *arguments: object) -> None:
    call(track.main, "track.py", clip, "--size", SIZE, "--refine", False, "--device", "cpu", *arguments)


@pytest.fixture(scope="module")
def trained(clip: Path, quick_stages: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "avatar"
    command(clip, "--train", out, "--train_flags", TRAINING)
    return out


def newest(folder: Path) -> dict[str, object]:
    path = sorted((folder / "checkpoints").iterdir())[-1]
    return {name: value for file in sorted(path.glob("*.safetensors")) for name, value in load_file(file).items()}


def test_it_equals_tracking_and_training_apart(clip: Path, trained: Path, tmp_path: Path) -> None:
    command(clip, "-o", tmp_path / "data")
    call(train.main, "train.py", "-s", tmp_path / "data", "-m", tmp_path / "apart", "--device", "cpu",
         *TRAINING.split())
    ours, theirs = newest(trained), newest(tmp_path / "apart")
    assert ours.keys() == theirs.keys() and len(ours) > 5
    differing = [name for name in ours if not bool((ours[name] == theirs[name]).all())]  # type: ignore[attr-defined]
    assert not differing
    for image in (tmp_path / "data" / "images").iterdir():
        assert image.read_bytes() == (trained / "data" / "images" / image.name).read_bytes()
    assert leftovers(trained / "data") == leftovers(tmp_path / "data"), "the data set is whole"


def test_the_face_is_looked_for_before_torch_is_there() -> None:
    """Its import takes seconds, in which the first stage is at work already."""
    words = "import sys, track; sys.exit(sorted({'torch', 'scipy', 'mediapipe'} & set(sys.modules)) or 0)"
    root = Path(track.__file__).parent
    assert subprocess.run([sys.executable, "-c", words], cwd=root, check=False).returncode == 0


def test_what_the_later_stages_lack_ends_the_first(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device or a head that is not there is told without a look at every picture, and nothing is left."""
    wrong = {r"no\.pkl": ("--head", tmp_path / "no.pkl"), "--device: wanted auto, cpu, cuda": ("--device", "tpu")}
    for message, flags in wrong.items():
        with pytest.raises(SystemExit, match=message):
            call(track.main, "track.py", clip, "-o", tmp_path / "data", *flags)
    assert leftovers(tmp_path) == []
    failed, asked = Future[Means](), list[int]()
    failed.set_exception(ValueError("no head"))
    monkeypatch.setattr(Opened, "detect", lambda *picture: asked.append(1))
    settings = TrackSettings(clip, tmp_path / "data", size=SIZE)
    with pytest.raises(ValueError, match="no head"):
        look.look_at(settings, failed)
    assert (asked, leftovers(tmp_path)) == ([], [])


def test_what_is_missing_when_a_run_is_resumed_costs_no_stage(clip: Path, tmp_path: Path) -> None:
    settings = TrackSettings(clip, tmp_path / "data", size=SIZE)
    failed, means = Future[Means](), Means(torch.device("cpu"), flame.load_head("open"))
    look.look_at(settings, means.at_hand())
    failed.set_exception(ValueError("the head's file is gone"))
    with pytest.raises(ValueError, match="file is gone"):
        look.look_at(replace(settings, resume=True), failed)
    found = look.look_at(replace(settings, resume=True), means.at_hand())
    assert "landmarks" not in found.run.seconds and len(found.track) == 60


@pytest.mark.parametrize(("device", "gpu", "trains", "count"), [
    ("auto", True, False, track.WORKERS), ("cuda:1", True, True, track.WORKERS), ("cpu", True, True, 1),
    ("auto", False, True, 1), ("cpu", True, False, 0), ("auto", False, False, 0),
])
def test_how_many_processes_help(
    device: str, gpu: bool, trains: bool, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "GPU_FILES", (tmp_path,) if gpu else (tmp_path / "none",))
    out = tmp_path / "out" if trains else None
    settings = TrackSettings(Path("a.mp4"), tmp_path / "data", train=out, device=device)
    workers = track.workers_for(settings)
    assert (workers.count if isinstance(workers, Workers) else 0) == count
    several = track.workers_for(replace(settings, camera=(Path("b.mp4"),)))
    assert not isinstance(several, Workers), "several cameras take turns in this process"


def test_training_does_not_wait_for_the_preview(clip: Path, tmp_path: Path) -> None:
    """The data set is complete but for what only people look at, which comes later, and then nothing else is left."""
    settings = TrackSettings(clip, tmp_path / "data", size=SIZE, refine=False)
    outcome = pipeline.track_video(settings, torch.device("cpu"), later=True)
    before = leftovers(tmp_path / "data")
    assert "tracking.json" in before and not {"preview.mp4", "tracking_error.png"} & set(before)
    assert outcome.preview is not None
    outcome.preview()
    assert set(leftovers(tmp_path / "data")) - set(before) == {"preview.mp4", "tracking_error.png"}
    assert leftovers(tmp_path) == ["data"]
    with av.open(str(tmp_path / "data" / "preview.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == outcome.frames


def test_a_preview_that_fails_is_told_after_the_training(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.go_on

    def full_disk(*arguments: Any, **options: Any) -> Any:
        return replace(real(*arguments, **options), preview=partial(Path.unlink, tmp_path / "nothing"))

    monkeypatch.setattr(pipeline, "go_on", full_disk)
    with pytest.raises(SystemExit, match=r"track\.py: .*No such file or directory.*nothing"):
        command(clip, "--train", tmp_path / "out", "--train_flags", TRAINING)
    assert newest(tmp_path / "out")


def test_the_data_set_may_lie_elsewhere(clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        command(clip, "-o", tmp_path / "data", "--train", tmp_path / "out", "--train_flags", TRAINING)
    assert (tmp_path / "data" / "tracking.json").is_file() and not (tmp_path / "out" / "data").exists()
    assert newest(tmp_path / "out")
    words = caplog.messages[-1], "\n".join(caplog.messages)
    assert "From the video to the avatar:" in words[0] and "then: python train.py" not in words[1]


def test_interrupted_training_goes_on_without_tracking_again(
    clip: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out, real = tmp_path / "out", train.train

    def stop(settings: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped, pytest.raises(SystemExit) as end:
        stopped.setattr(train, "train", stop)
        command(clip, "--train", out, "--train_flags", TRAINING)
    assert end.value.code == 130 and (out / "data" / "tracking.json").is_file()
    monkeypatch.setattr(track, "look_at", lambda *rest: pytest.fail("tracked again"))
    with caplog.at_level(logging.INFO):
        command(clip, "--train", out, "--train_flags", TRAINING, "--resume")
    assert "is complete; the training goes on" in "\n".join(caplog.messages)
    whole, resumed = newest(trained), newest(out)
    assert all(bool((whole[name] == resumed[name]).all()) for name in whole)  # type: ignore[attr-defined]
    assert train.train is real


def test_resume_with_another_crop_is_refused(clip: Path, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "data", tmp_path / "out" / "data")
    with pytest.raises(SystemExit, match=r"--resume: .*data was tracked with other fps; give the same"):
        command(clip, "--train", tmp_path / "out", "--fps", 5, "--resume")
    (tmp_path / "out" / "data" / "tracking.json").write_text("[]")
    with pytest.raises(SystemExit, match=r"tracking\.json: not the report of a tracked data set"):
        command(clip, "--train", tmp_path / "out", "--resume")


def test_a_folder_with_a_trained_run_is_refused_before_anything_is_tracked(clip: Path, trained: Path) -> None:
    with pytest.raises(SystemExit, match=r"avatar: holds a trained run; continue it with --resume or choose another"):
        command(clip, "--train", trained, "-o", trained.with_name("new"))
    assert leftovers(trained.parent) == ["avatar"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--train", "x", "--train_flags", "--sed 1"], r"train\.py: unknown flag --sed\. Did you mean --seed\?"),
    (["--train", "x", "--train_flags", "-s elsewhere"], r"--train_flags: --source_path cannot be given: the data set"),
    (["--train", "x", "--train_flags", "--resume=True"], r"--train_flags: --resume cannot be given: it is track\.py's"),
    (["--train", "x", "--train_flags", "--seed 'a"], r"--train_flags \"--seed 'a\": No closing quotation"),
])
def test_flags_that_make_no_sense(
    clip: Path, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        command(clip, *arguments)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("given", "message"), [
    ({}, r"--output: the folder of the data set expected \(or --train OUT\), got neither"),
    ({"output": Path("x"), "train_flags": "--seed 1"}, r"--train_flags '--seed 1': of no use without --train OUT"),
    ({"output": Path("x"), "size": 7}, "--size: 64 to 4096 pixels expected, got 7"),
])
def test_settings_that_make_no_sense(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrackSettings(Path("a.mp4"), **given)


def test_footage_that_cannot_serve_is_told_and_nothing_is_trained(tmp_path: Path) -> None:
    short = write_clip(tmp_path / "short.mp4", moving_face(4))
    with pytest.raises(SystemExit, match=r"only 4 usable pictures"):
        command(short, "--train", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "out", short]
