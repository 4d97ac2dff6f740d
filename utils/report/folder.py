"""One tested split of a run as files: scores, records, and pictures cut out of the side-by-side ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.images import encode_image, read_rgb
from utils.report.page import Picture, data_uri
from utils.score_files import Row, read_csv, read_json

LARGEST_SIDE = 512  # pixels of an embedded picture; four of them in a row show no more on a page
JPEG_QUALITY = 88

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class SplitFolder:
    """run/<split> as `evaluation.evaluate` wrote it."""

    run: Path
    split: str

    @property
    def path(self) -> Path:
        return self.run / self.split

    @cached_property
    def rows(self) -> dict[int, Row]:
        return read_csv(self.path / "frames.csv")

    @cached_property
    def record(self) -> dict[str, Any]:
        return read_json(self.path / "evaluation.json")

    def has_picture(self, index: int) -> bool:
        return self._picture_path(index).is_file()

    def panels(self, index: int) -> dict[str, Image]:
        """The frame's pictures by name ("ground truth", "prediction", "error", "mesh"), uint8 [H,W,3] each."""
        names, scale = self.record["panels"], self.record["scale_width"]
        joined = read_rgb(self._picture_path(index))[self.record["caption_height"] :]
        pieces = np.split(joined[:, : joined.shape[1] - scale], len(names), axis=1)
        return dict(zip(names, pieces, strict=True))

    def box(self, index: int, area: str) -> tuple[int, int, int, int] | None:
        """Left, top, right, bottom of an area in the frame, or None where it is not visible."""
        found = self.record["boxes"].get(str(index), {}).get(area)
        return tuple(found) if found else None

    def _picture_path(self, index: int) -> Path:
        return self.path / "side_by_side" / f"{index:05d}.jpg"


def picture(image: Image, caption: str) -> Picture:
    """`image` uint8 [H,W,3] as an embedded JPEG, made smaller where it is larger than a page shows."""
    shrink = LARGEST_SIDE / max(image.shape[:2])
    if shrink < 1:
        size = round(image.shape[1] * shrink), round(image.shape[0] * shrink)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return Picture(data_uri(encode_image(image, ".jpg", JPEG_QUALITY), "image/jpeg"), caption)


def zoom(image: Image, around: tuple[int, int, int, int], aspect: float, width: int = 360) -> Image:
    """A detail of `image` around a box, of the given width : height, enlarged to `width` pixels.

    The box grows by a fifth and to the aspect; where it would leave the picture it is moved inside, where it would be
    larger than the picture it is cut.
    """
    left, top, right, bottom = around
    size_y, size_x = image.shape[:2]
    wide = min(max((right - left) * 1.2, (bottom - top) * 1.2 * aspect, 16), size_x, size_y * aspect)
    high = wide / aspect
    x = round(min(max((left + right - wide) / 2, 0), size_x - wide))
    y = round(min(max((top + bottom - high) / 2, 0), size_y - high))
    detail = image[y : y + round(high), x : x + round(wide)]
    return cv2.resize(detail, (width, round(width / aspect)), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
