"""What readers share: JSON and numbers that may be wrong, pictures with their masks, frames that must be alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scene import conventions
from scene.frame import Camera, Frame, Tracking, read_only
from utils.images import PictureHeader, read_picture_header
from utils.plain_json import read_json

Floats = NDArray[np.float64]

HEAD_FILE = "head.json"
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileNotFoundError, ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file{beside(path)}")
    try:
        value = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: not a readable JSON file ({error!s:.200})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: a JSON object is expected, got {type(value).__name__}")
    return value


def object_list(value: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """value[key], a list of at least one object. `where` names the file for the error."""
    found = value.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(item, dict) for item in found):
        raise ValueError(f"{where}: {key}: a list of objects is expected, got {_short(found)}")
    return found


def numbers(values: dict[str, Any], key: str, shape: tuple[int, ...], where: str) -> Floats:
    """values[key] as float64 of `shape` (-1: any length); axes of 1 in front of the wanted ones are dropped.

    ValueError naming `where` and the key: missing, no numbers, another shape, not finite.
    """
    if key not in values:
        raise ValueError(f"{where}: {key} is missing; there are {', '.join(map(str, list(values)[:12])) or 'no keys'}")
    try:
        array = np.asarray(values[key], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {key}: numbers are expected, got {_short(values[key])}") from error
    got = list(array.shape)
    while array.ndim > len(shape) and array.shape[0] == 1:
        array = array[0]
    if array.ndim != len(shape) or any(want not in (-1, size) for want, size in zip(shape, array.shape, strict=True)):
        raise ValueError(f"{where}: {key}: shape {['any' if n == -1 else n for n in shape]} expected, got {got}")
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: {key}: {np.count_nonzero(~np.isfinite(array))} of {array.size} numbers are not "
                         "finite")
    return array


@contextmanager
def at(where: str) -> Iterator[None]:
    """Inside, a ValueError that does not begin with `where` (file and place in it) is raised again with it in front."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith(where):
            raise
        raise ValueError(f"{where}: {error}") from error


def camera_of(R: ArrayLike, t: ArrayLike, K: ArrayLike, width: int, height: int) -> Camera:
    """A camera of numbers of any type. Raises as `Camera` does."""
    return Camera(read_only(R), read_only(t), read_only(K), width, height)


def tracking_of(shape: ArrayLike, expression: ArrayLike, jaw: ArrayLike, eyes: ArrayLike,
                eyelids: ArrayLike | None = None, neck: ArrayLike | None = None) -> Tracking:
    """Codes with rotations as axis-angle vectors: jaw [3], eyes [6], neck [3] (None: not tracked). No eyelids: open."""
    lids = np.zeros(2) if eyelids is None else eyelids
    jaw, eyes = conventions.six_of_turns(jaw), conventions.six_of_turns(eyes)
    return Tracking(read_only(shape), read_only(expression), read_only(jaw), read_only(eyes), read_only(lids),
                    None if neck is None else read_only(conventions.six_of_turns(neck)))


def text(values: dict[str, Any], key: str, where: str) -> str:
    """values[key], a text that is not empty."""
    found = values.get(key)
    if not isinstance(found, str) or not found:
        raise ValueError(f"{where}: {key}: a text is expected, got {_short(found)}")
    return found


def whole(values: dict[str, Any], key: str, where: str) -> int:
    """values[key], a whole number from 0."""
    found = values.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ValueError(f"{where}: {key}: a whole number from 0 is expected, got {_short(found)}")
    return found


def lens_of(entry: dict[str, Any], image: Path, header: PictureHeader, where: str) -> Floats:
    """K [3,3] from the keys of NeRF's transforms files: fl_x, fl_y, cx, cy in pixels of w x h, or camera_angle_x.

    What is missing follows from the rest: square pixels, the principal point in the middle, the picture's own size.
    """
    size = {"w": header.width, "h": header.height}
    width, height = (float(numbers(size | entry, key, (), where)) for key in size)
    if (width, height) != (header.width, header.height):
        raise ValueError(f"{where}: w and h are {width:g} x {height:g} pixels, but {image} has {header.width} x "
                         f"{header.height}")
    guessed = {"cx": width / 2, "cy": height / 2}
    if "fl_x" not in entry:
        angle = float(numbers(entry, "camera_angle_x", (), where))
        guessed["fl_x"] = width / (2 * np.tan(angle / 2)) if 0 < angle < np.pi else 0.0
    known = guessed | entry
    known.setdefault("fl_y", known["fl_x"])
    return conventions.pinhole(*(float(numbers(known, key, (), where)) for key in ("fl_x", "fl_y", "cx", "cy")))


def picture_path(path: Path, where: str) -> Path:
    """`path`, or the picture of that name with an ending. FileNotFoundError naming `where`, which asks for it."""
    if path.is_file():
        return path
    for ending in PICTURE_ENDINGS:
        if (candidate := path.with_name(path.name + ending)).is_file():
            return candidate
    raise FileNotFoundError(f"{path}: missing, though {where} names it{beside(path)}")


def masked_picture(path: Path, mask: Path | None) -> PictureHeader:
    """Header of a picture whose mask is the file `mask`, or its own alpha where that is None. ValueError naming it."""
    header = read_picture_header(path)
    if mask is None and not header.has_alpha:
        raise ValueError(f"{path}: there is no mask of the head: neither an alpha channel nor a mask file")
    if mask is not None:
        other = read_picture_header(mask)
        if (other.width, other.height) != (header.width, header.height):
            raise ValueError(f"{mask}: {header.width} x {header.height} pixels expected as its image, "
                             f"got {other.width} x {other.height}")
    return header


def beside(path: Path) -> str:
    """What the folder of a missing file holds instead, for a message."""
    names = sorted(p.name for p in path.parent.iterdir() if p.name[0] != ".") if path.parent.is_dir() else []
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent.name}"
    if not names:
        return f"; the folder {path.parent.name} is empty"
    return f"; {path.parent.name} holds {', '.join(names[:2])}{', ...' if len(names) > 2 else ''}"


def check_alike(frames: Sequence[Frame], place: Callable[[Frame], str]) -> None:
    """The pictures of each camera have one size, and all frames as many codes as the first. place: the codes' file."""
    first, known = frames[0], dict[str, Frame]()
    for frame in frames:
        like = known.setdefault(frame.view, frame)
        wanted_size, size = ((each.camera.width, each.camera.height) for each in (like, frame))
        if size != wanted_size:
            raise ValueError(f"{frame.image_path}: {wanted_size[0]} x {wanted_size[1]} pixels expected as in "
                             f"{like.image_path.name}, got {size[0]} x {size[1]}")
        for name in ("shape", "expression"):
            wanted, got = (len(getattr(f.tracking, name)) for f in (first, frame))
            if wanted != got:
                raise ValueError(f"{place(frame)}: {wanted} {name} codes expected as in {Path(place(first)).name}, "
                                 f"got {got}")


def read_head_name(folder: Path) -> str | None:
    """The head model that head.json in `folder` names, None where there is no such file."""
    path = folder / HEAD_FILE
    if not path.is_file():
        return None
    try:
        name = read_json(path)["head"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path}: {{"head": NAME}} is expected ({error!r})') from error
    if not isinstance(name, str):
        raise ValueError(f"{path}: head: a name is expected, got {name!r}")
    return name


def _short(value: object) -> str:
    return "nothing" if value is None else f"{value!r:.60}"
