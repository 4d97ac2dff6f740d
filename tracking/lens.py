"""Lenses that are known: reading a calibration, and footage without its distortion."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tracking.crop import Crop
from tracking.footage import ByteImage, Footage, FootageError, OfFootage, Picture, Wanted

Doubles = NDArray[np.float64]

MAX_BYTES = 1 << 20        # of a calibration file; real ones have a few thousand
COEFFICIENTS = (0, 4, 5, 8, 12, 14)  # OpenCV's: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 .. s4 [tx ty]]]]
SAME_SHAPE = 0.005         # relative difference of aspect ratios of the calibrated and the filmed picture
MIDDLE = 0.5               # OpenCV counts pixels from the middle of the first one, we from its corner
FORM = ('{"camera_matrix": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], "distortion_coefficients": [k1, k2, p1, p2, k3], '
        '"image_width": W, "image_height": H}, or the YAML file that OpenCV\'s calibration writes')


class CalibrationError(ValueError):
    """A calibration that cannot be used; the message names the file, what was wanted and what arrived."""


@dataclass(frozen=True, eq=False)
class Lens:
    """A camera's lens, for pictures of width x height pixels, and where it stands if that is known.

    K [3,3] and distortion [n] as in OpenCV: pixel centres at whole numbers; n is one of COEFFICIENTS. R [3,3], t [3]:
    world to camera, metres, x right, y down, z forward; None: not known.
    """

    K: Doubles
    distortion: Doubles
    width: int
    height: int
    R: Doubles | None = None
    t: Doubles | None = None

    def resized(self, width: int, height: int, where: str) -> Lens:
        """The same lens for pictures of another resolution. CalibrationError for another aspect ratio."""
        scale = np.array([width / self.width, height / self.height])
        if abs(scale[0] / scale[1] - 1) > SAME_SHAPE:
            turned = "; the video is turned against it" if (width < height) != (self.width < self.height) else ""
            raise CalibrationError(f"{where}: calibrated for pictures of {self.width} x {self.height}, the video has "
                                   f"{width} x {height}, which is another part of what the lens shows{turned}")
        K = self.K.copy()
        K[:2, 2] += MIDDLE
        K[:2] *= scale[:, None]
        K[:2, 2] -= MIDDLE
        return replace(self, K=K, width=width, height=height)

    @property
    def focal(self) -> float:
        """Of the pictures without distortion, which have square pixels."""
        return float(np.sqrt(self.K[0, 0] * self.K[1, 1]))

    @property
    def straight(self) -> Doubles:
        """K [3,3] of the pictures without distortion, in OpenCV's count."""
        return np.array([[self.focal, 0, self.K[0, 2]], [0, self.focal, self.K[1, 2]], [0, 0, 1]])

    @property
    def is_straight(self) -> bool:
        """Whether the pictures are without distortion as they are."""
        return not self.distortion.any() and np.allclose(self.K, self.straight, rtol=1e-6)

    def of_crop(self, crop: Crop) -> tuple[float, tuple[float, float]]:
        """Focal length and principal point of the crop, pixels in our count, of pictures without distortion."""
        place = (self.K[:2, 2] + MIDDLE - (crop.left, crop.top)) * crop.scale
        return self.focal * crop.scale, (float(place[0]), float(place[1]))


class Straight(OfFootage):
    """Footage whose pictures are freed of the lens's distortion; see `tracking.footage.Footage`.

    where: the calibration comes from, for messages.
    """

    def __init__(self, footage: Footage, lens: Lens, where: str) -> None:
        super().__init__(footage)
        self._lens, self._where = lens, where
        self._maps: tuple[np.ndarray, np.ndarray] | None = None
        self.lens: Lens | None = None

    def pictures(self, wanted: Wanted) -> Iterator[Picture]:
        """Raises CalibrationError where the calibration is for other pictures."""
        for picture in self._footage.pictures(wanted):
            height, width = picture.rgb.shape[:2]
            if self.lens is None:
                self.lens = self._lens.resized(width, height, self._where)
                if not self.lens.is_straight:
                    self._maps = cv2.initUndistortRectifyMap(
                        self.lens.K, self.lens.distortion, None, self.lens.straight, (width, height), cv2.CV_16SC2)
            if self._maps is None:
                yield picture
                continue
            alpha = None if picture.alpha is None else self._freed(picture.alpha, cv2.BORDER_CONSTANT)
            yield replace(picture, rgb=self._freed(picture.rgb, cv2.BORDER_REPLICATE), alpha=alpha)

    def _freed(self, image: ByteImage, border: int) -> ByteImage:
        assert self._maps is not None
        return np.asarray(cv2.remap(image, *self._maps, cv2.INTER_LINEAR, borderMode=border), np.uint8)


def straight(footage: Footage, lens: Lens, where: str) -> Straight:
    """`footage` without distortion; one picture is read to see that the calibration is for it.

    Raises CalibrationError, and FootageError where nothing can be read.
    """
    freed = Straight(footage, lens, where)
    if next(freed.pictures(_First()), None) is None:
        raise FootageError(f"{footage.path}: not one picture could be read")
    return freed


class _First:
    """Wants the first picture of a clip."""

    def accepts(self, index: int, time: float) -> bool:
        return index == 0

    def is_past(self, time: float) -> bool:
        return False


def read_lens(path: Path) -> Lens:
    """The lens of a file of one camera: JSON, or YAML as OpenCV (or ROS) writes it. Raises CalibrationError."""
    return _lens(read_file(path), str(path))


def read_rig(path: Path, names: tuple[str, ...]) -> list[Lens]:
    """The lenses of several cameras from a file {"cameras": {NAME: {..., "R": [3][3], "t": [3]}}}, in the order of
    `names`. Raises CalibrationError, also for a camera that is missing or does not say where it stands.
    """
    content = read_file(path)
    cameras = content.get("cameras")
    if not isinstance(cameras, dict):
        raise CalibrationError(f'{path}: {{"cameras": {{NAME: ...}}}} expected, got {_shown(content)}')
    missing = [name for name in names if name not in cameras]
    if missing:
        raise CalibrationError(f"{path}: no camera {missing[0]!r}, which is the name of a video; there are "
                               f"{', '.join(sorted(map(str, cameras))) or 'none'}")
    lenses = [_lens(cameras[name], f"{path}, camera {name!r}") for name in names]
    for name, lens in zip(names, lenses, strict=True):
        if lens.R is None or lens.t is None:
            raise CalibrationError(f"{path}, camera {name!r}: R and t (world to camera, metres) expected")
    return lenses


def read_file(path: Path) -> dict[str, Any]:
    """The contents of a JSON or YAML file. Raises CalibrationError."""
    if not path.is_file():
        raise CalibrationError(f"{path}: no such file; a calibration is expected: {FORM}")
    if path.stat().st_size > MAX_BYTES:
        raise CalibrationError(f"{path}: {path.stat().st_size} bytes; a calibration has at most {MAX_BYTES}")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if text.lstrip().startswith("{") else _yaml(text)
    except (ValueError, cv2.error, SystemError, RecursionError) as error:
        raise CalibrationError(f"{path}: neither JSON nor YAML ({str(error).splitlines()[0][:100]}); expected is "
                               f"{FORM}") from None
    if not isinstance(content, dict):
        raise CalibrationError(f"{path}: expected is {FORM}; got {_shown(content)}")
    return content


def _yaml(text: str) -> Any:
    """Plain values of YAML as OpenCV reads it; files of others lack its first line."""
    if not text.startswith("%YAML"):
        text = "%YAML:1.0\n---\n" + text.removeprefix("---\n")
    storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
    try:
        return _plain(storage.root())
    finally:
        storage.release()


def _plain(node: cv2.FileNode, depth: int = 0) -> Any:
    if depth > 8:
        raise ValueError("nested too deep")
    if node.isMap():
        return {key: _plain(node.getNode(key), depth + 1) for key in node.keys()}  # noqa: SIM118
    if node.isSeq():
        return [_plain(node.at(i), depth + 1) for i in range(node.size())]
    if node.isInt() or node.isReal():
        return node.real()
    return node.string() if node.isString() else None


def _lens(content: Any, where: str) -> Lens:
    if not isinstance(content, dict):
        raise CalibrationError(f"{where}: expected is {FORM}; got {_shown(content)}")
    model = str(content.get("distortion_model", content.get("camera_model", "plumb_bob"))).lower()
    if "fish" in model or "equidistant" in model:
        raise CalibrationError(f"{where}: a fisheye lens ({model}); OpenCV's ordinary model (k1 k2 p1 p2 k3 ...) is "
                               "expected: free the video of its distortion first")
    K = _numbers(content, "camera_matrix", where, (3, 3))
    if not (K[0, 0] > 0 and K[1, 1] > 0 and np.allclose(K[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]], (0, 0, 0, 0, 1))):
        raise CalibrationError(f"{where}: camera_matrix: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with positive fx and fy "
                               f"expected, got {K.tolist()}")
    distortion = np.zeros(0)
    if content.get("distortion_coefficients") is not None:
        distortion = _numbers(content, "distortion_coefficients", where, None).ravel()
    if len(distortion) not in COEFFICIENTS:
        raise CalibrationError(f"{where}: distortion_coefficients: {', '.join(map(str, COEFFICIENTS))} numbers "
                               f"expected, got {len(distortion)}")
    sizes = [content.get(key) for key in ("image_width", "image_height")]
    if not all(isinstance(s, (int, float)) and not isinstance(s, bool) and 1 <= s <= 1 << 16 and s == int(s)
               for s in sizes):
        raise CalibrationError(f"{where}: image_width and image_height of the calibrated pictures expected, got "
                               f"{sizes[0]!r} and {sizes[1]!r}")
    lens = Lens(K, distortion, int(sizes[0]), int(sizes[1]))  # type: ignore[arg-type]
    if "R" not in content and "t" not in content:
        return lens
    R, t = _numbers(content, "R", where, (3, 3)), _numbers(content, "t", where, (3,))
    if not (np.allclose(R @ R.T, np.eye(3), atol=1e-3) and np.linalg.det(R) > 0):
        raise CalibrationError(f"{where}: R: a rotation expected, got {R.tolist()}")
    return replace(lens, R=R, t=t)


def _numbers(content: dict[str, Any], key: str, where: str, shape: tuple[int, ...] | None) -> Doubles:
    """An array out of nested lists, or of {rows, cols, data}, as OpenCV stores matrices."""
    value = content.get(key)
    found: Doubles
    try:
        if isinstance(value, dict):
            found = np.array(value["data"], np.float64).reshape(int(value["rows"]), int(value["cols"]))
        else:
            found = np.array(value, np.float64)
        if shape is not None and found.shape != shape:
            found = found.reshape(shape)
    except (KeyError, TypeError, ValueError, OverflowError):
        found = np.array(np.nan)
    if not np.isfinite(found).all() or not found.ndim:
        wanted = "numbers" if shape is None else f"{' x '.join(map(str, shape))} numbers"
        raise CalibrationError(f"{where}: {key}: {wanted} expected, got {_shown(value)}")
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
