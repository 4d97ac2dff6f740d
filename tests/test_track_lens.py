"""Known lenses: calibration files, what is wrong with them, and pictures freed of distortion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tracking.crop import Crop
from tracking.footage import Picture, Span
from tracking.lens import CalibrationError, Lens, read_lens, read_rig, straight

K = [[500.0, 0, 159.5], [0, 520.0, 119.5], [0, 0, 1]]
GOOD: dict[str, Any] = {"camera_matrix": K, "distortion_coefficients": [-0.3, 0.1, 0.001, -0.001, 0],
                        "image_width": 320, "image_height": 240}
OPENCV = """%YAML:1.0
---
calibration_time: "Sat 01 Jan 2022"
image_width: 320
image_height: 240
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 500., 0., 159.5, 0., 520., 119.5, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 5
   cols: 1
   dt: d
   data: [ -0.3, 0.1, 0.001, -0.001, 0. ]
"""
ROS = OPENCV.replace("%YAML:1.0\n---\n", "").replace(" !!opencv-matrix", "").replace("   dt: d\n", "")
ROS += "distortion_model: plumb_bob\n"
IDENTITY = np.eye(3).tolist()


class Film:
    """Footage of pictures that are given."""

    path = Path("film.mp4")

    def __init__(self, *pictures: np.ndarray, alpha: np.ndarray | None = None) -> None:
        self.rgb, self.alpha, self.notes, self.expected = pictures, alpha, list[str](), len(pictures)

    def pictures(self, wanted: Any) -> Iterator[Picture]:
        for index, rgb in enumerate(self.rgb):
            if wanted.accepts(index, index / 25):
                yield Picture(index, index / 25, rgb, self.alpha)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("content", [GOOD, OPENCV, ROS], ids=["JSON", "OpenCV's YAML", "ROS's YAML"])
def test_all_forms_say_the_same(content: Any, tmp_path: Path) -> None:
    lens = read_lens(write(tmp_path / "lens", content))
    np.testing.assert_array_equal(lens.K, K)
    np.testing.assert_array_equal(lens.distortion, GOOD["distortion_coefficients"])
    assert (lens.width, lens.height, lens.R, lens.t) == (320, 240, None, None)


@pytest.mark.parametrize("content, message", [
    ("", "neither JSON nor YAML|expected is"),
    ("nonsense {", "neither JSON nor YAML|expected is"),
    ("{\"camera_matrix\": ", "neither JSON nor YAML"),
    ("[1, 2]", "expected is"),
    ({}, "camera_matrix: 3 x 3 numbers expected, got None"),
    (GOOD | {"camera_matrix": [1, 2]}, "camera_matrix: 3 x 3 numbers"),
    (GOOD | {"camera_matrix": [[1, 2], [3]]}, "camera_matrix: 3 x 3 numbers"),
    (GOOD | {"camera_matrix": {"rows": 10**9, "cols": 10**9, "data": [1]}}, "camera_matrix: 3 x 3 numbers"),
    (GOOD | {"camera_matrix": [[float("nan"), 0, 1], [0, 1, 1], [0, 0, 1]]}, "camera_matrix: 3 x 3 numbers"),
    (GOOD | {"camera_matrix": [[-5, 0, 1], [0, 5, 1], [0, 0, 1]]}, "positive fx and fy"),
    (GOOD | {"camera_matrix": [[5, 3, 1], [0, 5, 1], [0, 0, 1]]}, "positive fx and fy"),
    (GOOD | {"distortion_coefficients": [1, 2, 3]}, "0, 4, 5, 8, 12, 14 numbers expected, got 3"),
    (GOOD | {"distortion_coefficients": "much"}, "distortion_coefficients: numbers expected, got 'much'"),
    (GOOD | {"distortion_model": "equidistant"}, "a fisheye lens"),
    (GOOD | {"image_width": 0}, "image_width and image_height .* got 0 and 240"),
    (GOOD | {"image_width": 1e300}, "image_width and image_height"),
    ({key: GOOD[key] for key in GOOD if key != "image_height"}, "got 320 and None"),
    (GOOD | {"R": IDENTITY}, "t: 3 numbers expected, got None"),
    (GOOD | {"R": np.diag([1, 1, -1]).tolist(), "t": [0, 0, 0]}, "R: a rotation expected"),
])
def test_malformed_calibration_is_told(content: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "lens.json", content)
    with pytest.raises(CalibrationError, match=message) as error:
        read_lens(path)
    assert str(path) in str(error.value)


def test_calibration_that_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no such file; a calibration is expected"):
        read_lens(tmp_path / "nothing.json")
    (tmp_path / "video.mp4").write_bytes(b"\0" * (2 << 20))
    with pytest.raises(CalibrationError, match="a calibration has at most"):
        read_lens(tmp_path / "video.mp4")
    (tmp_path / "bytes").write_bytes(bytes(range(256)))
    with pytest.raises(CalibrationError, match="neither JSON nor YAML"):
        read_lens(tmp_path / "bytes")


def test_rig_names_every_camera_and_its_place(tmp_path: Path) -> None:
    placed = GOOD | {"R": IDENTITY, "t": [0, 0, 1]}
    path = write(tmp_path / "rig.json", {"cameras": {"a": placed, "b": placed | {"t": [0.5, 0, 1]}, "c": GOOD}})
    first, second = read_rig(path, ("b", "a"))
    assert first.t is not None and first.t.tolist() == [0.5, 0, 1]
    assert second.t is not None and second.t.tolist() == [0, 0, 1]
    with pytest.raises(CalibrationError, match="no camera 'd', which is the name of a video; there are a, b, c"):
        read_rig(path, ("a", "d"))
    with pytest.raises(CalibrationError, match="camera 'c': R and t"):
        read_rig(path, ("a", "c"))
    with pytest.raises(CalibrationError, match='"cameras"'):
        read_rig(write(tmp_path / "lens.json", GOOD), ("a",))


def dots(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture with a soft dot at each of points [N,2], OpenCV's count."""
    y, x = np.mgrid[0:height, 0:width]
    image = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8) for u, v in points)
    return np.repeat(np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)[..., None], 3, 2)


def found_dots(image: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Centres of the dots near the given places."""
    result = []
    for u, v in near.round().astype(int):
        window = image[v - 7:v + 8, u - 7:u + 8, 0].astype(float)
        y, x = np.mgrid[v - 7:v + 8, u - 7:u + 8]
        result.append([(window * x).sum() / window.sum(), (window * y).sum() / window.sum()])
    return np.array(result)


def test_pictures_without_distortion_are_those_of_a_pinhole() -> None:
    """What OpenCV's own model distorts comes back to where a pinhole with the told focal length sees it."""
    lens = Lens(np.array(K), np.array([-0.3, 0.1, 0.002, -0.001, 0]), 320, 240)
    x, y = np.meshgrid(np.linspace(-0.25, 0.25, 5), np.linspace(-0.18, 0.18, 4))
    world = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], 1)
    bent = cv2.projectPoints(world, np.zeros(3), np.zeros(3), lens.K, lens.distortion)[0][:, 0]
    wanted = world[:, :2] * lens.focal + lens.K[:2, 2]
    assert np.abs(bent - wanted).max() > 2, "the lens bends enough to tell"
    film = straight(Film(dots(bent, 320, 240), alpha=np.full((240, 320), 255, np.uint8)), lens, "lens.json")
    (picture,) = film.pictures(Span())
    # Rounding to bytes and the resampling move a dot's centre by less than a tenth of a pixel.
    assert np.abs(found_dots(picture.rgb, wanted) - wanted).max() < 0.15
    assert picture.alpha is not None and picture.alpha[120, 160] == 255


def test_crop_knows_the_lens() -> None:
    lens = Lens(np.array([[500.0, 0, 159.5], [0, 500.0, 119.5], [0, 0, 1]]), np.zeros(0), 320, 240)
    assert lens.is_straight
    focal, principal = lens.of_crop(Crop(40, 0, 240, 480))
    assert focal == 1000
    assert principal == (240, 240)  # the middle of the picture, 160, 120, is that of the crop


def test_other_resolution_and_other_shape() -> None:
    lens = Lens(np.array(K), np.zeros(5), 320, 240)
    half = lens.resized(160, 120, "file")
    np.testing.assert_allclose(half.K, np.array([[250, 0, 79.5], [0, 260, 59.5], [0, 0, 1]]))
    with pytest.raises(CalibrationError, match="calibrated for pictures of 320 x 240, the video has 240 x 320.*turned"):
        straight(Film(np.zeros((320, 240, 3), np.uint8)), lens, "file")
    with pytest.raises(CalibrationError, match="the video has 320 x 320"):
        straight(Film(np.zeros((320, 320, 3), np.uint8)), lens, "file")
