"""A subject seen by several cameras, one with pictures of another size: trained, tested and played as a user does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from arguments import DataSettings
from arguments.export_settings import ExportSettings
from arguments.view_settings import ViewSettings
from data.demo.generate import Settings, generate
from exporting.web import export_web
from exporting.web.avatar_file import packed_avatar
from player import open_player
from player.views import front_clip, front_frame
from reenactment.driver import open_driver
from scene.clip import load_clip
from scene.data import open_data, open_dataset
from scene.inspection import draw_sheet
from scene.readers import open_source
from scene.size_sampler import training_sampler
from tests.test_train_end_to_end import succeed
from tests.tracked_head import subject_of
from tests.tracker_folder import write_png
from tests.web_file import read_file
from training.targets import ResidentTargets
from utils.images import read_rgba, resize_rgba
from view import find_truth
from viewer.camera import clip_camera
from viewer.pace import Pace
from viewer.page import Page
from viewer.picture import Painter
from viewer.server import PageServer
from viewer.state import ViewState

CAMERAS, MOMENTS, SIZE, OTHER = ("000", "120", "240"), 6, 64, 48
SMALL = ["--test_frames", "2", "--test_cameras", "120", "--num_face_gaussians", "300", "--num_teeth_gaussians", "20",
         "--num_expressions", "20", "--batch_size", "2", "--iterations", "16", "--test_views", "2", "--tensorboard",
         "False", "--refine_from_iter", "0", "--refine_camera_lr", "1e-4", "--device", "cpu"]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cameras; the pictures of the last are smaller."""
    folder = tmp_path_factory.mktemp("ring") / "data"
    generate(folder, Settings(MOMENTS, SIZE, cameras=3), workers=1, progress=False)
    mine = folder / "cameras" / CAMERAS[-1]
    for index in range(MOMENTS):
        path, record = mine / "images" / f"{index:05d}.png", mine / "checkpoint" / f"{index:05d}.frame"
        write_png(path, resize_rgba(read_rgba(path), OTHER, OTHER))
        content = torch.load(record, weights_only=False)
        content["opencv"]["K"] = content["opencv"]["K"] * np.array([[OTHER / SIZE], [OTHER / SIZE], [1.0]], np.float32)
        content["img_size"] = np.array([[OTHER, OTHER]])
        torch.save(content, record)
    return folder


@pytest.fixture(scope="module")
def said(subject: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run, and what training said."""
    run = tmp_path_factory.mktemp("run") / "out"
    return run, succeed("train.py", "-s", str(subject), "-m", str(run), *SMALL)


@pytest.fixture(scope="module")
def run(said: tuple[Path, str]) -> Path:
    return said[0]


def test_training_says_what_is_held_out(said: tuple[Path, str]) -> None:
    assert ("8 frames train, 10 held out (moments 4 to 5 of 0 to 5; of 3 cameras 120): 4 novel view, "
            "4 novel expression, 2 both") in said[1]
    assert "Doubtful" not in said[1]


def test_pictures_of_a_moment_share_its_correction(run: Path) -> None:
    """Cameras keep their place against one another but for what `refine_camera_lr` gives each, once for all."""
    clip, tracked = load_clip(run), open_source(run_data(run)).frames
    assert clip.recording.cameras == CAMERAS
    R, t = (torch.from_numpy(np.stack([getattr(frame.camera, name) for frame in tracked])).double() for name in "Rt")
    head = [torch.eye(4, dtype=torch.float64).repeat(len(clip), 1, 1) for _ in range(2)]
    for matrix, rotation, place in ((head[0], clip.R.double(), clip.t.double()), (head[1], R, t)):
        matrix[:, :3, :3], matrix[:, :3, 3] = rotation, place
    time = clip.recording.time
    turned = [matrix[MOMENTS:2 * MOMENTS] @ torch.linalg.inv(matrix[:MOMENTS]) for matrix in head]
    assert torch.equal(clip.codes.expression[:MOMENTS], clip.codes.expression[MOMENTS:2 * MOMENTS])
    assert (clip.R.double() - R).abs().amax() > 1e-5
    # From the first camera to the second: the same at all moments, as it was tracked; single precision.
    assert (turned[0] - turned[0][:1]).abs().max() < 1e-5
    assert (turned[1] - turned[1][:1]).abs().max() < 1e-5
    assert time.tolist() == list(range(MOMENTS)) * 3


def run_data(run: Path) -> Path:
    return Path(json.loads((run / "config.json").read_text())["data"]["source_path"])


def test_scores_apart(run: Path) -> None:
    text = succeed("test.py", "-m", str(run), "--lpips", "--device", "cpu", "--batch_size", "3")
    block = json.loads((run / "metrics.json").read_text())["test"]
    assert {name: part["frames"] for name, part in block["parts"].items()} == {
        "novel_view": 4, "novel_expression": 4, "both": 2}
    assert {name: part["frames"] for name, part in block["cameras"].items()} == {"000": 2, "120": 6, "240": 2}
    for groups in (block["parts"], block["cameras"]):
        mean = sum(part["frames"] * part["psnr"] for part in groups.values()) / 10
        assert mean == pytest.approx(block["psnr"], abs=1e-4)  # six decimals are kept
    assert "test, novel view, 4 frames: psnr" in text
    report = (run / "report.html").read_text()
    assert "By view and expression" in report
    assert "camera 240" in report
    succeed("test.py", "-m", str(run), "--lpips", "--device", "cpu", "--split", "train", "--video", "False")
    block = json.loads((run / "metrics.json").read_text())["train"]
    assert "parts" not in block
    assert set(block["cameras"]) == {"000", "240"}


def test_the_viewer_shows_each_cameras_moments(run: Path) -> None:
    player = open_player(run, torch.device("cpu"))
    first = front_frame(player.clip)
    assert player.clip.recording.view[first] == 0, "the first camera stands in front"
    server = PageServer("127.0.0.1", 0, "ring")
    try:
        page = Page(Painter(player), server, Pace(10.0, 128), 25.0)
        truth, note = find_truth(ViewSettings(run), player.clip)
        assert truth is not None, note
        page.offer_truth(truth, note)
        assert page.frames == MOMENTS
        page.seek(4)
        assert page.state.frame == 4
        page.choose_camera("240")
        assert page.state.frame == 2 * MOMENTS + 4
        assert page._playback.place(page.state.frame) == 4
        page.seek(1)
        assert page.state.frame == 2 * MOMENTS + 1
        state = ViewState(frame=page.state.frame, compare=True)
        picture = page._painter.paint(state, clip_camera(player.clip, 0, 3 * SIZE, SIZE))
        assert picture.shape == (SIZE, 3 * SIZE, 3)
        # The smaller picture fills the clip's: ground truth and avatar show the head at the same place.
        places = [np.argwhere(panel.max(axis=2) > 40).mean(axis=0) for panel in np.split(picture, 3, axis=1)[:2]]
        assert np.abs(places[0] - places[1]).max() < 0.1 * SIZE
    finally:
        server.stop()


def test_what_plays_a_clip_in_time_plays_each_moment_once(run: Path, tmp_path: Path) -> None:
    player = open_player(run, torch.device("cpu"))
    clip = front_clip(player.clip)
    assert len(clip) == MOMENTS
    meta, tables = read_file(packed_avatar(player).data)
    views = tables["seenViews"].reshape(-1, 3)
    assert meta["frames"] == len(tables["clipRotation"]) / 9 == MOMENTS
    assert export_web(player, ExportSettings(run, "web", tmp_path / "page")).is_dir()
    # Views of all training cameras count as seen, not of those in the page alone.
    assert len(views) > 1
    assert float((views @ views.T).min()) < -0.3  # cosine of cameras 120 degrees apart
    for source in (run, run_data(run)):
        driver = open_driver(source)
        assert len(driver.codes) == MOMENTS
        assert driver.pictures is not None
        pictures = list(driver.pictures())
        assert len(pictures) == MOMENTS
        assert pictures[0].shape == (SIZE, SIZE, 3)
    cameras = player.cameras_of(slice(None))
    assert player.render(player.codes_of(slice(None)), cameras).image.shape == (3 * MOMENTS, 3, SIZE, SIZE)


def test_the_sheet_shows_pictures_of_all_sizes(subject: Path) -> None:
    sheet = draw_sheet(subject_of(subject))
    assert sheet.ndim == 3
    assert sheet.shape[1] == 4 * 320


def test_only_pictures_that_train_wait_on_the_device(subject: Path) -> None:
    settings = DataSettings(subject, test_frames=2, test_cameras=(CAMERAS[1],))
    dataset = open_dataset(settings, open_data(settings))
    targets, sampler = ResidentTargets(dataset, torch.device("cpu")), training_sampler(dataset, 2, seed=0)
    parts = dataset.by_size(dataset.train_indices)
    assert [len(part) for part in parts] == [MOMENTS - 2] * 2
    assert sum(len(pictures) for pictures in targets._images.values()) == 2 * (MOMENTS - 2)
    for part in parts:
        frames = part[::-1].copy()
        width, height = dataset.size(frames[0])
        out = torch.zeros(len(frames), height, width, 4, dtype=torch.uint8)
        targets.fill(out, frames, torch.from_numpy(frames), sampler)
        assert out.any() and torch.equal(out, dataset.rgba_batch(frames))
