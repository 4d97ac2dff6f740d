"""The look at the data before training: right data pass without a word, every usual mistake is named with its cause."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from scene.inspection import draw_sheet, empty_targets, inspect_data
from tests.tracked_head import subject_of, write_tracked_head
from tests.tracker_folder import write_png
from utils.images import read_rgba

ROOT = Path(__file__).resolve().parents[1]
FRAMES, SIZE = 12, 64
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tracked_head(tmp_path_factory.mktemp("tracked") / "data", FRAMES, SIZE)


@pytest.fixture
def data(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "data")
    return tmp_path / "data"


def pictures(change: Callable[[np.ndarray], Any], *only: int) -> Change:
    """Change the RGBA pictures, of all frames or of some, in place."""
    def apply(folder: Path) -> None:
        for index in only or range(FRAMES):
            path = folder / "images" / f"{index:05d}.png"
            rgba = read_rgba(path)
            change(rgba)
            write_png(path, rgba)
    return apply


def records(change: Callable[[dict[str, Any]], Any], *only: int) -> Change:
    """Change the records in place; groups flame and opencv by key."""
    def apply(folder: Path) -> None:
        for index in only or range(FRAMES):
            path = folder / "checkpoint" / f"{index:05d}.frame"
            content = torch.load(path, weights_only=False)
            values = content["flame"] | content["opencv"]
            change(values)
            for group in ("flame", "opencv"):
                content[group] |= {name: values[name] for name in content[group]}
            torch.save(content, path)
    return apply


def alpha(change: Callable[[np.ndarray], Any], *only: int) -> Change:
    def apply(rgba: np.ndarray) -> None:
        rgba[..., 3] = change(rgba[..., 3])
    return pictures(apply, *only)


def value(name: str, change: Callable[[np.ndarray], Any], *only: int) -> Change:
    def apply(values: dict[str, Any]) -> None:
        values[name] = np.asarray(change(values[name]), np.float32)
    return records(apply, *only)


def opengl(values: dict[str, Any]) -> None:
    for name in ("R", "t"):
        flip = np.diag([1.0, -1, -1]).astype(np.float32)
        values[name] = (flip @ values[name][0])[None]


def repeated(folder: Path) -> None:
    for index in (3, 7, 9):
        shutil.copy(folder / "images" / f"{index - 1:05d}.png", folder / "images" / f"{index:05d}.png")


def stood_still(folder: Path) -> None:
    for index in range(4, FRAMES):
        shutil.copy(folder / "checkpoint" / "00003.frame", folder / "checkpoint" / f"{index:05d}.frame")


WRONG: dict[str, tuple[Change, str]] = {
    "empty": (alpha(lambda a: 0 * a), r"frame 0 \(00000\.png\): wanted a mask.* at most 0 of 255.*matting step failed"),
    "labels": (alpha(lambda a: a > 127), "at most 1 of 255 in all 12.*labels 0 and 1 instead of 0 and 255"),
    "faint": (alpha(lambda a: a // 3), "at most 85 of 255 .*half transparency"),
    "full": (alpha(lambda a: 0 * a + 255), r"found 255 everywhere.*no matting was done.*\(12 of 12 pictures"),
    "mostly empty": (alpha(lambda a: 0 * a, *range(2, 12)), r"frame 2 .* and 9 more \(3, 4, .*found it empty"),
    "black": (pictures(lambda rgba: rgba[..., :3].fill(0)), "the picture is black where the head is"),
    "inverted": (alpha(lambda a: 255 - a), "inside the mask, found 0% .*the mask is inverted"),
    "opengl": (records(opengl), r"frame 0 .*and 11 more.* behind the camera.* found -0\.\d+ m.*OpenGL's convention"),
    "one behind": (value("t", lambda t: -t, 5), r"frame 5 \(00005.png\): the head is behind.*tracking was lost there"),
    "millimetres": (value("t", lambda t: 1000 * t), "much too small.*depth of 60\\d m.*t is in millimetres"),
    "centimetres": (value("t", lambda t: 100 * t), "much too small.*t is in centimetres; divide it by 100"),
    "aside": (value("t", lambda t: t + [[0.4, 0, 0]]), r"outside the picture: wanted .* 64 x 64 pixels, found \(\d+, "),
    "large K": (value("K", lambda K: K * [[[3], [3], [1]]]), "K belongs to pictures of about 3 times"),
    "off the mask": (alpha(lambda a: np.roll(a, 32, axis=1)), "inside the mask, found .*do not belong together"),
    "codes": (value("exp", lambda e: 300 * e), "expression codes move the mesh by .*another head model"),
    "identity": (value("shape", lambda s: s + 40 * (np.arange(300) < 100)), "shape codes move the mesh"),
}

DOUBTFUL: dict[str, tuple[Change, str]] = {
    "some empty": (alpha(lambda a: 0 * a, 3, 4), r"frame 3 \(00003\.png\) and 1 more \(4\): wanted a head in the mask"),
    "some full": (alpha(lambda a: 0 * a + 255, 3), r"frame 3 .*found 255 everywhere.*\(1 of 12"),
    "one jump": (value("t", lambda t: t + [[0.12, 0, 0]], 5), r"frame 5 \(00005\.png\).*(lie apart|inside the mask)"),
    "stretched": (value("K", lambda K: K * [[[1], [1.2], [1]]]), "focal lengths of 115.2 and 138.2 pixels differ"),
    "back": (value("R", lambda R: R @ np.diag([-1.0, 1, -1])), "shows its back in most frames"),
    "upside down": (value("R", lambda R: R @ np.diag([-1.0, -1, 1])), "stands upside down"),
    "some codes": (value("exp", lambda e: 100 * e, 2), r"frame 2 .*expression codes move the mesh"),
    "still codes": (value("exp", lambda e: 0 * e), "expression codes are 0 in every frame"),
    "jaw": (value("jaw", lambda j: [[1, 0, 0, 0, -0.5, 0.8]], 1), r"frame 1 .*the jaw is turned by 2\.13 radians"),
    "lids": (value("eyelids", lambda lids: lids + 5, 1), "eyelids of .* wanted about 0"),
    "repeated": (repeated, r"frame 3 .* and 2 more \(7, 9\): repeats the picture"),
    "stood still": (stood_still, "repeats camera and codes of the frame before"),
}


@pytest.mark.parametrize("settings", [{}, {"cache": "stream"}, {"resolution": 32}], ids=str)
def test_good_data_pass_without_a_word(good: Path, settings: dict[str, Any]) -> None:
    assert inspect_data(subject_of(good, **settings)) == []


@pytest.mark.parametrize("case", WRONG)
def test_the_impossible_is_wrong(data: Path, case: str) -> None:
    change, message = WRONG[case]
    change(data)
    findings = inspect_data(subject_of(data, cache="stream" if case in ("labels", "opengl") else "ram"))
    wrong = "\n".join(finding.text for finding in findings if finding.wrong)
    assert re.search(message, wrong), wrong or findings


@pytest.mark.parametrize("case", DOUBTFUL)
def test_the_unusual_is_doubtful(data: Path, case: str) -> None:
    change, message = DOUBTFUL[case]
    change(data)
    findings = inspect_data(subject_of(data))
    assert not [finding.text for finding in findings if finding.wrong]
    assert re.search(message, "\n".join(finding.text for finding in findings)), findings


def test_a_mask_in_another_channel_is_found(good: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(good, data)
    for index in range(FRAMES):
        rgba = read_rgba(data / "images" / f"{index:05d}.png")
        mask = np.zeros((SIZE, SIZE, 3), np.uint8)
        mask[..., 2] = rgba[..., 3]
        write_png(data / "image_mask" / f"mask_{index:05d}.png", mask)
        write_png(data / "images" / f"{index:05d}.png", rgba[..., :3])
    cv2.imwrite(str(data / "bc.jpg"), np.full((SIZE, SIZE, 3), 99, np.uint8))
    [finding] = inspect_data(subject_of(data))
    assert finding.wrong
    assert "frame 0 (mask_00000.png)" in finding.text
    assert "the mask lies in the blue channel; the first (red) one is read" in finding.text


def test_the_sheet_shows_mesh_and_mask(good: Path) -> None:
    sheet = draw_sheet(subject_of(good))
    assert sheet.shape[1] == 4 * 320
    assert sheet.shape[0] == 3 * 320
    for colour in ((60, 220, 90), (255, 120, 40)):
        assert (sheet == colour).all(axis=2).sum() > 12 * 100


def test_black_targets_are_no_test(data: Path) -> None:
    alpha(lambda a: a > 127, 8, 9, 10, 11)(data)
    for cache in ("ram", "stream"):
        dataset = subject_of(data, cache=cache).dataset
        refused = empty_targets(dataset, [8, 9, 10, 11])
        assert refused is not None
        assert "00008.png: the target is black in all 4 frames" in refused
        assert "largest alpha 1 of 255" in refused
        assert empty_targets(dataset, [7, 8, 9, 10, 11]) is None


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_only_looking_trains_nothing(good: Path, tmp_path: Path) -> None:
    result = program("train.py", "-s", str(good), "-m", str(tmp_path / "out"), "--check_only")
    assert result.returncode == 0, result.stderr
    assert "10 frames train, 2 held out (10 to 11 of 0 to 11)" in result.stderr
    assert "Doubtful" not in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data_check.jpg"]


def test_bad_data_are_refused_by_training_and_testing(data: Path, tmp_path: Path) -> None:
    alpha(lambda a: 0 * a)(data)
    command = ["train.py", "-s", str(data), "-m", str(tmp_path / "out"), "--device", "cpu", "--iterations", "2",
               "--num_face_gaussians", "200", "--num_teeth_gaussians", "10", "--batch_size", "1"]
    refused = program(*command)
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert "matting step failed" in refused.stderr
    assert "--check_data False" in refused.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data_check.jpg"]
    assert program(*command, "--check_data", "False").returncode == 0
    tested = program("test.py", "-m", str(tmp_path / "out"), "--device", "cpu")
    assert tested.returncode != 0
    assert "the target is black in all 2 frames" in tested.stderr
    assert not (tmp_path / "out" / "metrics.json").exists()


# Several cameras


def ring(good: Path, folder: Path, change: Callable[[str, dict[str, Any]], Any]) -> Path:
    """The data twice, as cameras a and b; `change` edits the groups of each record in place."""
    for name in "ab":
        shutil.copytree(good, folder / "cameras" / name)
        for path in sorted((folder / "cameras" / name / "checkpoint").iterdir()):
            content = torch.load(path, weights_only=False)
            change(name, content)
            torch.save(content, path)
    shutil.copy(good / "head.json", folder / "head.json")
    return folder


def test_right_data_of_two_cameras_pass_without_a_word(good: Path, tmp_path: Path) -> None:
    assert inspect_data(subject_of(ring(good, tmp_path, lambda name, content: None))) == []


def test_a_camera_is_named_where_it_alone_is_wrong(good: Path, tmp_path: Path) -> None:
    def stretched(name: str, content: dict[str, Any]) -> None:
        if name == "b":
            content["opencv"]["K"][..., 0, 0] *= 1.4

    texts = [finding.text for finding in inspect_data(subject_of(ring(good, tmp_path, stretched)))]
    assert any(text.startswith(f"frame {FRAMES} (camera b, 00000.png): focal lengths") for text in texts)
    assert not any("camera a" in text for text in texts)


def test_a_camera_upside_down_is_named(good: Path, tmp_path: Path) -> None:
    def turned(name: str, content: dict[str, Any]) -> None:
        if name == "b":
            for key in ("R", "t"):
                content["opencv"][key][:, :2] *= -1

    texts = [finding.text for finding in inspect_data(subject_of(ring(good, tmp_path, turned)))]
    assert any(text.startswith("camera b: the head stands upside down") for text in texts)


def test_cameras_that_move_against_each_other_are_told(good: Path, tmp_path: Path) -> None:
    count = iter(range(10**6))

    def wandering(name: str, content: dict[str, Any]) -> None:
        if name == "b":
            content["opencv"]["t"][..., 0] += 0.01 * (next(count) % 3)

    texts = [finding.text for finding in inspect_data(subject_of(ring(good, tmp_path, wandering)))]
    assert any(re.match("camera b moves against camera a: by 10 mm and 0.0 degrees in the median moment", text)
               for text in texts)


def test_of_several_cameras_some_may_stand_behind_the_head(good: Path, tmp_path: Path) -> None:
    """All of them behind it is told, one is not."""
    back = np.diag([-1.0, 1, -1]).astype(np.float32)

    def behind(*names: str) -> Callable[[str, dict[str, Any]], None]:
        def turn(name: str, content: dict[str, Any]) -> None:
            if name in names:
                content["opencv"]["R"] = content["opencv"]["R"] @ back
        return turn

    for names, told in ((("b",), False), (("a", "b"), True)):
        folder = ring(good, tmp_path / "".join(names), behind(*names))
        texts = [finding.text for finding in inspect_data(subject_of(folder))]
        assert any("shows its back" in text for text in texts) == told
