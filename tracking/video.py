"""Reading footage: a video (see `tracking.video_file`), or a folder of images, upright as EXIF says, alpha kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tracking.footage import PHOTO, ByteImage, Footage, FootageError, Picture, Wanted
from utils.images import IMAGE_SUFFIXES, read_image

FOLDER_FPS = 25.0  # images of a folder carry no times

ANIMATED_WEBP = ("{path}: an animated WebP, which cannot be decoded here; convert it to a video (MP4, WebM), an APNG "
                 "or a folder of PNG files")


def open_footage(path: Path, fps: float | None = None) -> Footage:
    """Open a video file or a folder of images.

    fps: for a folder of images, how many of them make a second (None: 25); of no use for a video.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        FootageError: a photo, an audio file, a folder without images, or nothing that can be read.
    """
    if path.is_dir():
        return ImageFolder(path, fps or FOLDER_FPS)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder; a video file or a folder of images is expected")
    if _is_animated_webp(path):
        raise FootageError(ANIMATED_WEBP.format(path=path))
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise FootageError(PHOTO.format(path=path))
    from tracking.video_file import VideoFile  # here, so that a folder of images needs no PyAV

    return VideoFile(path)


class ImageFolder:
    """The images of a folder in the natural order of their names; see `tracking.footage.Footage`."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.fps = fps
        self.notes: list[str] = []
        self.files = sorted((p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."),
                            key=_natural)
        if not self.files:
            others = [p.suffix.lower() for p in path.iterdir()]
            kinds = ", ".join(sorted(set(others) - {""})[:5])
            raise FootageError(f"{path}: a folder of images is expected ({', '.join(sorted(IMAGE_SUFFIXES))}), got "
                               f"{len(others)} other files{f' ({kinds})' if kinds else ''}")
        self.expected: int | None = len(self.files)

    def pictures(self, wanted: Wanted) -> Iterator[Picture]:
        size: tuple[int, ...] | None = None
        for index, file in enumerate(self.files):
            if not wanted.accepts(index, index / self.fps):
                continue
            rgb, alpha = _read_image(file)
            size = size or rgb.shape
            if rgb.shape != size:
                raise FootageError(f"{file}: {size[1]} x {size[0]} pixels expected as the images before it, got "
                                   f"{rgb.shape[1]} x {rgb.shape[0]}; a clip has one size")
            yield Picture(index, index / self.fps, rgb, alpha)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", path.stem.lower())
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]


def _read_image(path: Path) -> tuple[ByteImage, ByteImage | None]:
    """RGB [H,W,3], upright, and alpha [H,W] where the file has any."""
    try:
        image = read_image(path)
    except ValueError as error:
        raise FootageError(f"{error}; replace or remove it") from error
    return image.rgb, image.alpha


def _is_animated_webp(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(21)
    # A WebP in the extended format says in the flags of its first chunk whether it is animated.
    return start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X" and bool(start[20] & 2)
