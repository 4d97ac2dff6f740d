"""The layout that metrical-tracker style head trackers write, in its three modes (docs/formats.md).

    checkpoint/%05d.frame              codes and cameras, ids 0 .. n-1 without gaps
    images/%05d.png                    "insta": RGBA; "nerfbs": RGB, whole photograph
    images.HQ/%05d.png                 "hr": RGBA at a multiple of the tracker's resolution
    image_mask/mask_%05d.png, bc.jpg   "nerfbs": head mask (channel 0), photograph without the head
    canonical.obj                      optional: the tracker's mesh, counted to tell head models apart
    offset.txt                         optional: 3 numbers, shift of the mouth interior in metres
    head.json                          optional: {"head": NAME}, written by our own tools
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scene.frame import Camera, FloatArray, Frame, Tracking, read_only
from scene.readers.files import beside, check_alike, read_head_name
from scene.readers.source import MeshCounts, Source
from utils.images import PngHeader, read_png_header, read_rgb
from utils.safe_pickle import load_torch_dict

FETCH_THREADS = 8  # fetching thousands of small files waits for the disk, not for the processor
FETCHED_BYTES = 1 << 20  # of a record; most are smaller

# Key in the record -> how many axes its value has without the leading batch axis of 1.
RECORD_KEYS = {
    ("flame", "shape"): 1, ("flame", "exp"): 1, ("flame", "jaw"): 1, ("flame", "eyes"): 1, ("flame", "eyelids"): 1,
    ("opencv", "R"): 2, ("opencv", "t"): 1, ("opencv", "K"): 2,
}

_log = logging.getLogger(__name__)
_ROTATIONS = {"jaw": 6, "eyes": 12}  # numbers of the 6D rotations in a record


@dataclass(frozen=True)
class Mode:
    """How one mode of the layout differs: where its images are, and what is held out by convention."""

    images: str
    whole_photograph: bool = False  # masks and background are files of their own
    upscaled: bool = False          # images are larger than the tracker's
    default_test_frames: int = 350


MODES = {
    "insta": Mode("images"),
    "nerfbs": Mode("images", whole_photograph=True, default_test_frames=500),
    "hr": Mode("images.HQ", upscaled=True),
}


def looks_like(path: Path, mode: str) -> bool:
    """Whether there are records, and the first image lies where `mode` has it, with alpha, or masks beside it."""
    layout = MODES[mode]
    first = path / layout.images / "00000.png"
    if not (path / "checkpoint").is_dir() or (layout.whole_photograph and not (path / "image_mask").is_dir()):
        return False
    try:
        return read_png_header(first).has_alpha != layout.whole_photograph
    except (OSError, ValueError):
        return False


def read_tracker(path: Path, mode: str) -> Source:
    """Open a tracker data set; see `scene.readers.open_source`."""
    layout, frames = MODES[mode], read_frames(path, mode)
    size = (frames[0].camera.width, frames[0].camera.height)
    background = _read_background(path / "bc.jpg", size) if layout.whole_photograph else None
    return with_still_files(Source(frames, background, layout.default_test_frames), path)


def read_frames(path: Path, mode: str) -> tuple[Frame, ...]:
    """The frames of a tracker data set alone."""
    count = _count_records(path / "checkpoint")
    folder = path / MODES[mode].images
    if beyond := sorted(p.name for p in folder.glob("*.png") if p.stem.isdecimal() and int(p.stem) >= count):
        _log.warning("%s: left out, for checkpoint/ holds no records of them: %s%s", folder, beyond[0],
                     f" to {beyond[-1]}" if len(beyond) > 1 else "")
    # By many threads at once from the disk; then by one, for threads would wait for Python's lock in turns.
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        list(pool.map(lambda index: _fetch(path, index, MODES[mode]), range(count)))
    frames = tuple(_read_frame(path, index, MODES[mode]) for index in range(count))
    check_alike(frames, lambda frame: str(path / "checkpoint" / _record_name(frame.index)))
    return frames


def with_still_files(source: Source, path: Path) -> Source:
    """A source with what canonical.obj, head.json and offset.txt of a folder say."""
    return replace(source, mesh=_read_mesh_counts(path / "canonical.obj"), head=read_head_name(path),
                   teeth_offset=_read_offset(path / "offset.txt"))


def _count_records(folder: Path) -> int:
    """Number of .frame files; their ids must be 0 .. n-1."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder (it holds the tracker's .frame files)")
    ids = sorted(int(file.stem) for file in folder.glob("*.frame") if re.fullmatch(r"\d{5,}", file.stem))
    if not ids:
        raise FileNotFoundError(f"{folder}: no .frame files named 00000.frame, 00001.frame, ...")
    for wanted, found in enumerate(ids):
        if wanted != found:
            raise FileNotFoundError(
                f"{folder / _record_name(wanted)}: missing, though {_record_name(ids[-1])} exists; frames must be "
                f"numbered from 00000 without gaps"
            )
    return len(ids)


def _record_name(index: int) -> str:
    return f"{index:05d}.frame"


def _fetch(path: Path, index: int, layout: Mode) -> None:
    """Have the system read a frame's record and the head of its image, which it then keeps for a while."""
    with suppress(OSError):  # is told when the frame is read
        with open(path / "checkpoint" / _record_name(index), "rb") as record:
            record.read(FETCHED_BYTES)
        with open(path / layout.images / f"{index:05d}.png", "rb") as image:
            image.read(1)


def _read_frame(path: Path, index: int, layout: Mode) -> Frame:
    record_path = path / "checkpoint" / _record_name(index)
    record = load_torch_dict(record_path, keys=[*RECORD_KEYS, "img_size"])
    image_path = path / layout.images / f"{index:05d}.png"
    header = _check_image(image_path, needs_alpha=not layout.whole_photograph)
    mask_path = None
    if layout.whole_photograph:
        mask_path = path / "image_mask" / f"mask_{index:05d}.png"
        _check_mask(mask_path, header)
    values = {key: _value(record, key, record_path) for key in RECORD_KEYS}
    try:
        tracked = _tracked_size(record, values["opencv", "K"], header, layout)
        camera = Camera(values["opencv", "R"], values["opencv", "t"], values["opencv", "K"], *tracked)
        tracking = Tracking(*(values["flame", key] for key in ("shape", "exp", "jaw", "eyes", "eyelids")))
    except ValueError as error:
        raise ValueError(f"{record_path}: {error}") from error
    return Frame(index, camera.resized(header.width, header.height), tracking, image_path, mask_path)


def _value(record: dict[str, Any], key: tuple[str, str], path: Path) -> FloatArray:
    """One array of the record without its leading batch axis of 1."""
    name = ".".join(key)
    group = record.get(key[0])
    if not isinstance(group, dict) or key[1] not in group:
        raise ValueError(f"{path}: {name} is missing; {_missing(record, key)}")
    stored = group[key[1]]
    try:
        array = np.asarray(stored.float() if isinstance(stored, torch.Tensor) else stored, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {name} is not an array of numbers ({type(group[key[1]]).__name__})") from error
    if array.ndim == RECORD_KEYS[key] + 1 and array.shape[0] == 1:
        array = array[0]
    if array.size == _ROTATIONS.get(key[1], 0) // 2 > 0:
        raise ValueError(f"{path}: {name}: {array.size} numbers, which are axis-angle; 6D rotations are expected, the "
                         "first two rows of the matrix")
    if array.ndim != RECORD_KEYS[key]:
        raise ValueError(f"{path}: {name}: {RECORD_KEYS[key]} axes after a batch axis of 1 expected, "
                         f"got shape {list(np.shape(group[key[1]]))}")
    return array


def _missing(record: dict[str, Any], key: tuple[str, str]) -> str:
    """What there is in place of a key, and what a converter should write."""
    group = record.get(key[0])
    there = f"{key[0]} holds {', '.join(map(str, list(group)[:12]))}" if isinstance(group, dict) else f"no {key[0]}"
    advice = {"eyelids": "a tracker without eyelids stores zeros [1, 2]",
              "eyes": "at rest: twice 1, 0, 0, 0, 1, 0", "jaw": "at rest: 1, 0, 0, 0, 1, 0"}.get(key[1], "")
    if key[0] == "opencv":
        advice = "R, t and K are the camera in OpenCV's axes, world to camera, K in pixels"
    return there + (f"; {advice}" if advice else "")


def _tracked_size(record: dict[str, Any], K: FloatArray, image: PngHeader, layout: Mode) -> tuple[int, int]:
    """(width, height) of the raster that K belongs to.

    The reference fixes the ratio of HR images to 2. Here it follows from the stored img_size; where a tracker stored
    none, from the principal point, which lies near the middle of the tracked raster: the nearest whole ratio.
    """
    if "img_size" in record:
        try:
            stored = np.asarray(record["img_size"], dtype=np.float64).ravel()
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"img_size: height and width in pixels expected ({error})") from error
        if stored.size != 2 or not ((stored > 0) & (stored < 1 << 31)).all():
            raise ValueError(f"img_size: height and width in pixels expected, got {stored[:4].tolist()}")
        width, height = int(stored[1]), int(stored[0])
    elif layout.upscaled:
        ratio = max(1.0, np.rint(image.width / (2 * K[0, 2])))
        width, height = round(image.width / ratio), round(image.height / ratio)
    else:
        width, height = image.width, image.height
    if not layout.upscaled and (width, height) != (image.width, image.height):
        raise ValueError(f"tracked at {width} x {height} pixels, but its image has {image.width} x {image.height}; "
                         "larger images belong into images.HQ, read with --layout hr")
    if abs(image.width / width - image.height / height) > 0.01:
        raise ValueError(f"tracked at {width} x {height} pixels, but its image has {image.width} x {image.height}: "
                         "another aspect ratio")
    return width, height


def _check_image(path: Path, needs_alpha: bool) -> PngHeader:
    header = _header(path)
    if needs_alpha and not header.has_alpha:
        raise ValueError(
            f"{path}: an RGBA image is expected (the alpha channel is the head mask), got {header.channels} "
            "channel(s); data with masks in image_mask/ are read with --layout nerfbs"
        )
    return header


def _check_mask(path: Path, image: PngHeader) -> None:
    header = _header(path)
    if (header.width, header.height) != (image.width, image.height):
        raise ValueError(f"{path}: {image.width} x {image.height} pixels expected as its image, "
                         f"got {header.width} x {header.height}")


def _header(path: Path) -> PngHeader:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, though its .frame file exists{beside(path)}")
    return read_png_header(path)


def _read_background(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing (the photograph without the head, for --layout nerfbs)")
    image = read_rgb(path)
    if image.shape[1::-1] != size:
        raise ValueError(f"{path}: {size[0]} x {size[1]} pixels expected as the frames, "
                         f"got {image.shape[1]} x {image.shape[0]}")
    image.setflags(write=False)
    return image


def _read_mesh_counts(path: Path) -> MeshCounts | None:
    if not path.is_file():
        return None
    vertices = triangles = 0
    for words in _lines_of_words(path):
        if words[0] == "v":
            vertices += 1
        elif words[0] == "f":
            triangles += len(words) - 3  # a polygon of n corners is n - 2 triangles
    if not vertices or not triangles:
        raise ValueError(f"{path}: a mesh is expected, got {vertices} vertices and {triangles} triangles")
    return MeshCounts(vertices, triangles)


def _lines_of_words(path: Path) -> Iterator[list[str]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if words := line.split():
                yield words


def _read_offset(path: Path) -> FloatArray | None:
    if not path.is_file():
        return None
    try:
        numbers = [float(word) for word in path.read_text(encoding="utf-8").replace(",", " ").split()]
    except ValueError as error:
        raise ValueError(f"{path}: 3 numbers are expected ({error})") from error
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise ValueError(f"{path}: 3 finite numbers are expected, got {numbers}")
    return read_only(numbers)
