"""live.py from the camera to the run: a film of painted faces plays the camera's part, a detector knows them."""

from __future__ import annotations

import pickle
import queue
import re
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import live
from arguments import ModelSettings, OptimizationSettings
from arguments.live_settings import LiveSettings
from online.page import LivePage, side_by_side
from online.session import Events, Session, SessionError, request_of, run_folder
from online.tracker import TrackerSettings, _track_all
from online.watcher import Ended, Glance, Kept, WatchSettings, _watch
from player import open_player
from scene.checkpoint import newest_checkpoint
from tests.browser import find_chromium, open_tab
from tests.track_videos import PaintedFaceDetector, moving_face, picture, write_clip
from viewer.server import PageServer

CPU = torch.device("cpu")
FPS = 15
SMALL = LiveSettings(
    Path("unset"), size=64, first_frames=16, rate=12.0, test_frames=3, last_seconds=1.0, port=0, device="cpu",
    model=ModelSettings(num_face_gaussians=300, num_teeth_gaussians=20),
    optimization=OptimizationSettings(iterations=100_000, batch_size=2, densify=False, lpips_loss=0.0))


def film(path: Path, pictures: list[np.ndarray]) -> Path:
    return write_clip(path, pictures, fps=FPS)


@pytest.fixture(scope="module")
def sitting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Path]:
    """A whole one, kept as live.py keeps it."""
    folder = tmp_path_factory.mktemp("sitting")
    clip = film(folder / "face.mp4", moving_face(12 * FPS, width=320, height=240))
    settings = replace(SMALL, model_path=folder / "out", video=clip)
    session = Session(settings, CPU, detector=PaintedFaceDetector)
    trainer = session.run()
    live.keep(trainer, settings)
    return session, folder / "out"


def test_the_avatar_comes_and_grows_while_the_camera_runs(sitting: tuple[Session, Path]) -> None:
    session, _ = sitting
    events, trainer = session.events, session.trainer
    assert trainer is not None and trainer.iteration > 0
    assert events.first_avatar < 60
    frames = [count for _, count in events.rounds]
    assert frames[0] >= 16 - 3 and frames == sorted(frames)
    assert len(trainer.world.clip) == frames[-1] > frames[0]


def test_the_camera_waits_for_nobody(sitting: tuple[Session, Path]) -> None:
    """A picture is looked at at once, whatever training and tracking do. In a queue most would wait for seconds; how
    long single ones wait depends on who else uses the processor (benchmarks/live.py measures it).
    """
    events = sitting[0].events
    assert events.looked > 5 * FPS
    assert float(np.median(events.waits)) < 0.25


def test_what_is_left_is_a_run_like_any_other(sitting: tuple[Session, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    session, out = sitting
    assert session.trainer is not None
    player = open_player(out, CPU)
    assert len(player.clip) == len(session.trainer.world.clip) and len(player.clip.test) == 3
    image = player.render(player.codes_of([0]), player.cameras_of([0])).image
    assert float(image.max()) > 0.2
    test = __import__("test")
    flags = ["-m", str(out), "--device", "cpu", "--lpips", "--video", "False", "--pictures", "selected"]
    monkeypatch.setattr(sys, "argv", ["test.py", *flags])
    test.main()
    assert (out / "metrics.json").is_file() or list(out.glob("**/metrics.json"))


def test_training_can_go_on_with_train(sitting: tuple[Session, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import train

    _, out = sitting
    before = newest_checkpoint(out).iteration
    settings = live.train_settings(replace(SMALL, model_path=out))
    more = replace(settings, run=replace(settings.run, resume=True, tensorboard=False))
    trainer = train.prepare(more, train.ALONE)
    assert trainer.iteration == before
    trainer.step()


def test_a_process_that_is_killed_is_told(tmp_path: Path) -> None:
    clip = film(tmp_path / "face.mp4", moving_face(8 * FPS))
    session = Session(replace(SMALL, model_path=tmp_path / "out", video=clip), CPU, detector=PaintedFaceDetector)

    def kill() -> None:
        while not session.events.waits:
            time.sleep(0.05)
        session._processes[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(SessionError, match=r"the camera's process died \(exit code -9\)"):
        session.run()


def watched(path: Path, pictures: list[np.ndarray]) -> tuple[list[Glance], list[Kept], Events]:
    """What a watcher tells of a film, without processes, and what the session counts of it."""
    glances, recorded = queue.Queue[Any](), queue.Queue[Any]()
    settings = WatchSettings(str(film(path, pictures)), "--video", 30.0, 100, detector=PaintedFaceDetector)
    ended = _watch(settings, glances, recorded, threading.Event())
    told = [pickle.loads(item) for item in glances.queue]
    assert ended.pictures == len(told) > 0 and ended.error == ""
    events = Events(waits=[glance.waited for glance in told], faceless=sum(g.faces == 0 for g in told),
                    crowded=sum(g.faces > 1 for g in told))
    return told, list(recorded.queue), events


def test_without_a_face_it_says_so(tmp_path: Path) -> None:
    told, kept, events = watched(tmp_path / "wall.mp4", [picture((), seed=k) for k in range(FPS)])
    assert kept == [] and request_of(told[-1]).startswith("No face is seen: look into the camera")
    assert events.complaint() == f"; {len(told)} of {len(told)} showed no face"


def test_two_faces_are_not_recorded(tmp_path: Path) -> None:
    two = picture(((50, 60, 30), (120, 60, 20)))
    told, kept, events = watched(tmp_path / "two.mp4", [two] * FPS)
    assert kept == [] and request_of(told[-1]).startswith("2 faces are seen: nothing is recorded until there is one")
    assert told[-1].seen is not None, "the avatar follows the largest"
    assert events.complaint() == f"; {len(told)} of {len(told)} showed more than one face"


def test_too_few_pictures_are_told() -> None:
    recorded, grown = queue.Queue[Any](), queue.Queue[Any]()
    recorded.put(Ended())
    ended = _track_all(TrackerSettings(Path("unused"), 64, 16), CPU, recorded, grown, threading.Lock())
    assert re.match(r"the recording ended with 0 usable pictures, .*: wanted 16 \(--first_frames\)", ended.error)
    recorded.put(Ended("the camera is gone"))
    assert _track_all(TrackerSettings(Path("unused"), 64, 16), CPU, recorded, grown, threading.Lock()).error == (
        "the camera is gone")


def test_no_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["live.py", "-m", str(tmp_path / "out"), "--webcam", "97", "--port", "0",
                                      "--device", "cpu", "--landmarks", "none"])
    with pytest.raises(SystemExit, match=r"live.py: --landmarks: are those of a film"):
        live.main()
    settings = replace(SMALL, model_path=tmp_path / "out", webcam="97")
    with pytest.raises(SessionError, match=r"--webcam 97: no camera number 97, or another program holds it"):
        Session(settings, CPU, detector=PaintedFaceDetector).run()


@pytest.mark.parametrize(("change", "message"), [
    ({"first_frames": 3}, "--first_frames: wanted 12 to 1000, got 3"),
    ({"first_frames": 12, "test_frames": 12}, r"--first_frames: wanted more than --test_frames \(12\)"),
    ({"rate": 0.1}, "--rate: wanted 0 or 0.5 to 60 pictures a second, got 0.1"),
    ({"size": 8}, "--size: wanted 0 or 64 to 2048 pixels, got 8"),
    ({"seconds": 0}, "--seconds: wanted 1 to 36000"),
    ({"optimization": OptimizationSettings(lpips_loss=0.1)}, "--lpips_loss: costs time that a sitting does not have"),
    ({"video": Path("gone.mp4")}, "--video gone.mp4: no such file"),
])
def test_impossible_settings(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        live.check(replace(SMALL, **change))


def test_a_folder_with_a_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds checkpoints of another run; choose another folder"):
        run_folder(replace(SMALL, model_path=tmp_path))


def test_pictures_stand_side_by_side_like_in_a_mirror() -> None:
    left, right = np.zeros((40, 60, 3), np.uint8), np.full((50, 50, 3), 200, np.uint8)
    left[:, :10] = 255
    wide = side_by_side([left, right], 240, 100)
    assert wide.shape == (100, 240, 3)
    assert wide[50, 118].min() > 250 and wide[50, 5].max() == 0  # the white stripe is on the other side
    assert wide[50, 180].tolist() == [200, 200, 200]
    assert side_by_side([left, right], 100, 240)[180, 50].tolist() == [200, 200, 200]


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium or Chrome on PATH")
def test_the_page_shows_both_pictures_and_its_button_ends_it(tmp_path: Path) -> None:
    server, pressed = PageServer("127.0.0.1", 0, "live"), threading.Event()
    page = LivePage(server)
    page.stop = pressed.set
    try:
        page.show(np.full((60, 80, 3), (255, 0, 0), np.uint8), np.full((64, 64, 3), (0, 0, 255), np.uint8))
        page.tell("**3 of 16 pictures**", "Now: **smile**", 0.5, "| | seen |\n|---|---|\n| smile | ●○○○ |")
        with open_tab(f"http://127.0.0.1:{server.get_port()}", tmp_path, 900, 500) as tab:
            tab.wait_for("document.body && document.body.innerText.includes('3 of 16 pictures')", 60)
            assert "●○○○" in tab.evaluate("document.body.innerText")
            for _ in range(60):
                shot = cv2.resize(tab.screenshot(), (90, 50), interpolation=cv2.INTER_AREA).reshape(-1, 3).astype(int)
                if any(np.abs(shot - (255, 0, 0)).sum(1) < 40) and any(np.abs(shot - (0, 0, 255)).sum(1) < 40):
                    break
            else:
                pytest.fail("the two pictures are not shown")
            tab.click(*tab.middle_of("button", "Stop and keep the avatar"))
            assert pressed.wait(20)
    finally:
        page.close()
        server.stop()


def test_help_names_every_flag(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["live.py", "--help"])
    with pytest.raises(SystemExit):
        live.main()
    assert {"--webcam", "--video", "--first_frames", "--num_face_gaussians"} <= set(
        re.findall(r"--\w+", capsys.readouterr().out))
