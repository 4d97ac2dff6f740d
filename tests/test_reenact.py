"""reenact.py from flags to film, on a made-up avatar."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import reenact
from arguments.reenact_settings import ReenactSettings
from reenactment.driver import driver_of_clip, open_driver
from reenactment.film import Painter, beside, labelled
from reenactment.performance import Cures, head_motion, perform
from reenactment.sweep import expression_sweep
from tests.player_subject import EXPRESSIONS, FRAMES, SIZE, lively_player, write_run
from tests.reference_folder import write_data_set, write_reference_folder
from tests.test_reenact_drivers import live_link, open_data
from utils.video import write_video


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "lively", lively_player())


def call(monkeypatch: pytest.MonkeyPatch, *flags: object) -> None:
    monkeypatch.setattr(sys, "argv", ["reenact.py", *map(str, flags), "--device", "cpu"])
    reenact.main()


def frames_of(path: Path) -> tuple[np.ndarray, float]:
    """Frames [T,H,W,3] of a video, and its rate."""
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 0)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]), rate


def test_own_clip_is_the_default_driver(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, run)
    frames, rate = frames_of(run / "reenact" / "lively.mp4")
    assert frames.shape == (FRAMES, SIZE, SIZE, 3) and rate == 25
    player = lively_player()
    # The clip's own pictures: its codes are inside their range, its cameras its own. What is left is the codec's.
    expected = player.render(player.codes_of(slice(None)), player.cameras_of(slice(None))).image.clamp(0, 1)
    error = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)[:-1] / 255 - expected[:-1]
    assert float(-10 * error.square().mean().log10()) > 25


def test_a_data_set_drives_and_stands_beside(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = open_data(tmp_path / "data"), tmp_path / "film.mp4"
    call(monkeypatch, run, "--driver", data, "-o", out, "--side_by_side", "--background", 1, 1, 1, "--fps", 10)
    frames, rate = frames_of(out)
    wide = round(24 * SIZE / 20)
    assert frames.shape[:3] == (4, SIZE, (wide + SIZE + 1) // 2 * 2) and rate == 10
    assert frames[0, :, :wide // 2].mean((0, 1)) == pytest.approx([0, 100, 200], abs=8)  # the driver's first picture
    assert frames[0, 2, -3].min() > 240  # white behind the avatar


def test_a_csv_drives_at_its_own_rate(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"JawOpen": k / 70, "HeadYaw": 0.01 * k} for k in range(70)]
    out = tmp_path / "csv.mp4"
    call(monkeypatch, run, "--driver", live_link(tmp_path / "take.csv", rows), "-o", out, "--frames", "0:70:10",
         "--size", 48)
    frames, rate = frames_of(out)
    assert frames.shape == (7, 48, 48, 3)
    assert rate == pytest.approx(6, rel=0.01)  # every tenth of 60 a second
    assert np.abs(frames[-1].astype(int) - frames[0]).mean() > 1


def test_a_csv_without_angles_keeps_the_head_still(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("jawOpen," + ",".join(f"mouth{k}" for k in range(3)))
    names = lively_player().expression_names
    path.write_text(",".join(names) + "\n" + 3 * (",".join(["0.1"] * 52) + "\n"))
    call(monkeypatch, run, "--driver", path, "-o", tmp_path / "still.mp4", "--size", 48)
    assert "plain does not tell how the head moves, so it stays still" in caplog.text


def test_orbit_sees_the_head_from_the_sides(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = ["--head_motion", "none", "--frames", "0:2"]
    call(monkeypatch, run, *held, "-o", tmp_path / "a.mp4")
    call(monkeypatch, run, *held, "--orbit", 40, "--orbit_seconds", 0.2, "-o", tmp_path / "b.mp4")
    still, turning = frames_of(tmp_path / "a.mp4")[0], frames_of(tmp_path / "b.mp4")[0]
    unlike = [float(np.abs(a.astype(int) - b).mean()) for a, b in zip(turning, still, strict=True)]
    assert unlike[1] > 2 * unlike[0]  # a swing starts in the middle, but for the codec's noise


def test_sweep_shows_every_expression_by_name(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sweep.mp4"
    call(monkeypatch, run, "--sweep", "--sweep_seconds", 0.12, "-o", out)
    frames, _ = frames_of(out)
    assert len(frames) == 3 * EXPRESSIONS
    codes, labels = expression_sweep(lively_player(), 5, 1.0)
    assert len(codes) == len(labels) == 5 * EXPRESSIONS
    for k in range(EXPRESSIONS):
        rows = codes.expression[5 * k:5 * k + 5]
        assert rows[:, k].tolist() == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-6)
        assert int((rows != 0).any(0).sum()) == 1
        assert labels[5 * k + 2] == f"{lively_player().expression_names[k]} 1.00"


@pytest.mark.parametrize(("frames", "amplitude"), [(2, 1.0), (5, 0.0), (5, float("nan"))])
def test_sweep_refuses_nonsense(frames: int, amplitude: float) -> None:
    with pytest.raises(ValueError, match="sweep: wanted 3 frames or more each and an amplitude other than 0"):
        expression_sweep(lively_player(), frames, amplitude)


def test_without_cures_codes_and_cameras_are_the_drivers() -> None:
    player = lively_player()
    driver = driver_of_clip("own", player.clip, player.head)
    found = perform(player, driver, Cures("none", "none"))
    # Blinks are shared out anew, which the mesh does not see.
    for name in ("jaw", "eyes", "neck"):
        assert torch.allclose(getattr(found, name), getattr(driver.codes, name), atol=1e-5), name
    columns = [k for k, name in enumerate(player.expression_names) if not name.startswith("eyeBlink")]
    assert torch.equal(found.expression[:, columns], driver.codes.expression[:, columns])
    motion, note = head_motion(player, driver, "clip", Cures())
    assert note == "" and torch.equal(motion.R, player.clip.R)


@pytest.mark.parametrize("level", [20, 230])
def test_labels_stand_out_at_the_bottom(level: int) -> None:
    picture = np.full((100, 200, 3), level, np.uint8)
    drawn = next(labelled(iter([picture]), ["jawOpen 1.00"]))
    assert np.array_equal(drawn[:75], picture[:75])
    assert np.abs(drawn[75:].astype(int) - level).max() > 150
    assert np.ptp(picture) == 0  # the picture itself is left alone


def test_pairs_have_one_height() -> None:
    left = np.zeros((10, 30, 3), np.uint8)
    pair = next(beside(lambda: iter([left]), iter([np.full((20, 8, 3), 9, np.uint8)])))
    assert pair.shape == (20, 68, 3) and pair[:, :60].max() == 0 and pair[:, 60:].min() == 9


def test_a_failed_film_leaves_nothing(tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "film.mp4"
    with pytest.raises(SystemExit, match=r"--side_by_side: lively has no pictures to show"):
        call(monkeypatch, run, "--side_by_side", "-o", out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("flags", "message"), [
    (["--driver", "a", "--video", "b"], "--driver and --video both say what drives"),
    (["--sweep", "--webcam", "0"], "--webcam and --sweep both say what drives"),
    (["-o", "film.avi"], r"--output: wanted the name of an \.mp4 file, got film.avi"),
    (["--fps", "0"], "--fps: wanted 1 to 240, got 0"),
    (["--size", "9"], "--size: wanted 16 to 4096, got 9"),
    (["--orbit", "nan"], "--orbit: wanted 0 to 180, got nan"),
    (["--orbit_seconds", "0"], "--orbit_seconds: wanted 0.1 to 3600"),
    (["--sweep", "--sweep_seconds", "0"], "--sweep_seconds: wanted 0.1 to 60"),
    (["--calibrate", "-1"], "--calibrate: wanted 0 to 60"),
    (["--smooth", "4"], "--smooth: wanted 0 .* got 4"),
    (["--sweep", "--frames", "0:1"], "--frames: chooses frames of a driver"),
    (["--frames", "3:99"], "--frames: wanted frames 0 to 4"),
    (["--webcam", "0", "--orbit", "9"], "--webcam: shows the avatar alone"),
    (["--udp", "vmc", "--webcam", "0"], "--webcam and --udp both say what drives"),
    (["--udp", "vmc", "--frames", "0:1"], "--frames: chooses frames of a driver; leave it out with --sweep, --webcam"),
    (["--udp", "vmc", "--orbit", "9"], "--udp: shows the avatar alone"),
    (["--same_person"], "--same_person: corrects a data set as track.py writes; name it with --driver"),
    (["--same_person", "--video", "a.mp4"], "--same_person: corrects a data set"),
    (["--udp", "unreal"], "--udp: wanted livelink, vmc, ifacialmocap"),
    (["--sweep", "--side_by_side"], "--side_by_side: a sweep has no pictures to show"),
    (["--background", "2", "0", "0"], "--background: wanted three numbers from 0 to 1"),
    (["--driver", "gone"], "--driver gone: no such file or folder"),
    (["--video", "gone.mp4"], "gone.mp4: no such file or folder"),
    (["--webcam", "97", "--port", "0"], "--webcam 97: no camera number 97, or another program holds it"),
    (["--webcam", "0", "--host", "not an address"], "--host: not an address is no address"),
    (["--iteration", "7"], "iteration"),
    (["--orbits", "7"], "unknown flag --orbits. Did you mean --orbit"),
])
def test_bad_flags_are_told(run: Path, flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=message) as caught:
        call(monkeypatch, run, *flags)
    assert str(caught.value).startswith("reenact.py: ")


def test_a_port_in_use_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit, match=r"--port \d+ on 127.0.0.1 .* try --port"):
            call(monkeypatch, run, "--webcam", 0, "--port", taken.getsockname()[1])


def test_a_folder_that_is_no_avatar_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="config.json: not found; is .* the output folder of a training run"):
        call(monkeypatch, tmp_path)
    with pytest.raises(SystemExit, match="no such folder; wanted the output folder of a training run"):
        call(monkeypatch, tmp_path / "gone")
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises(SystemExit, match="no such folder"):
        call(monkeypatch, tmp_path / "film.mp4")


def test_models_of_the_reference_are_driven_and_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_data_set(tmp_path / "data", lively_player())
    model = write_reference_folder(tmp_path / "model", lively_player(), data)
    driver = open_driver(model)
    assert len(driver) == FRAMES and driver.pictures is not None
    call(monkeypatch, model, "--driver", data, "-o", tmp_path / "film.mp4", "--size", 48)
    assert frames_of(tmp_path / "film.mp4")[0].shape == (FRAMES, 48, 48, 3)


def test_painter_draws_any_number_of_frames() -> None:
    player = lively_player()
    painter = Painter(player, 40, 40, (0, 0, 0), batch=2)
    codes, cameras = player.codes_of(slice(None)), player.cameras_of(slice(None), 40, 40)
    together = np.stack(list(painter.paint_all(codes, cameras)))
    assert together.shape == (FRAMES, 40, 40, 3)
    one = Painter(player, 40, 40, (0, 0, 0), batch=1)
    assert np.abs(np.stack(list(one.paint_all(codes, cameras))).astype(int) - together).max() <= 1


def test_live_pictures_are_kept_at_a_steady_rate(tmp_path: Path) -> None:
    """Pictures that come when they come: one repeated where they are late, some left out where they hurry."""
    arrivals = [0.0, 0.1, 0.5, 0.51, 0.52, 0.6]
    pictures = ((time, np.full((16, 16, 3), 40 * k, np.uint8)) for k, time in enumerate(arrivals))
    reenact.record(iter(pictures), tmp_path / "live.mp4", 10)
    frames, _ = frames_of(tmp_path / "live.mp4")
    assert [round(float(level) / 40) for level in frames.mean((1, 2, 3))] == [0, 1, 2, 2, 2, 2, 5]


def test_a_film_without_a_face_is_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mediapipe")
    if not (Path(reenact.__file__).parent / "data" / "mediapipe" / "face_landmarker.task").is_file():
        pytest.skip("the face model is not here")
    with write_video(tmp_path / "wall.mp4", 25) as add:
        for _ in range(3):
            add(np.full((64, 64, 3), 90, np.uint8))
    with pytest.raises(SystemExit, match=r"wall.mp4: no face was found in any of 3 pictures"):
        call(monkeypatch, run, "--video", tmp_path / "wall.mp4")


def test_every_setting_has_a_default_but_the_avatar() -> None:
    settings = ReenactSettings(Path("out"))
    reenact.check(settings)
    assert (settings.center, settings.project, settings.host) == ("rest", "range", "127.0.0.1")
