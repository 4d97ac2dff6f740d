"""Codes by name, of whatever network made them, beside pictures and cameras (docs/data.md): DECA, EMOCA, SMIRK.

    codes.npz | codes.csv            all pictures in one file: arrays [T,n], or columns name_0, name_1, ...
    codes/NAME.npz | codes/NAME/     one file a picture, or a folder of .npy files as EMOCA saves them
    images/NAME.png                  RGBA, or with masks/NAME.png beside
    transforms.json                  cameras as nerfstudio writes them, one a picture, found by its name; without this
                                     file the networks' own `cam`, for pictures that are their crops
    head.json                        optional, ours: {"head": NAME}

NAMES says which names are understood. Rotations are axis-angle. scene/writers/codes.py writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene import conventions
from scene.frame import Camera, Frame
from scene.readers.code_tables import Table, read_tables
from scene.readers.files import (
    PICTURE_ENDINGS,
    Floats,
    at,
    camera_of,
    check_alike,
    lens_of,
    masked_picture,
    numbers,
    object_list,
    picture_path,
    read_head_name,
    read_object,
    text,
    tracking_of,
)
from scene.readers.roots import placed
from scene.readers.source import RootPose, Source
from utils.images import PictureHeader

CAMERAS = "transforms.json"
FOCAL = 5.0  # picture sides; the networks' cameras have no perspective, a long lens nearly none
TIMES_HELD_OUT = 350

# Our name -> names in files; the first is written. pose6 of DECA and EMOCA: root and jaw. pose3 of SMIRK: the root.
NAMES: dict[str, tuple[str, ...]] = {
    "shape": ("shape", "shape_params", "shapecode", "betas", "identity"),
    "expression": ("exp", "expression_params", "expcode", "expression", "expr", "expr_params"),
    "pose": ("pose", "pose_params", "posecode"),
    "root": ("rotation", "global_pose", "global_orient", "head_pose"),
    "neck": ("neck_pose", "neck"),
    "jaw": ("jaw_pose", "jaw_params", "jaw"),
    "eyes": ("eyes_pose", "eye_pose", "eyes"),
    "eyelids": ("eyelids", "eyelid_params", "eyelid"),
    "translation": ("translation", "transl", "trans"),
    "cam": ("cam", "camera"),
}
WIDTHS = {"root": 3, "neck": 3, "jaw": 3, "eyes": 6, "eyelids": 2, "translation": 3, "cam": 3}


def looks_like_codes(path: Path) -> bool:
    """Whether there are codes by name and pictures, and no records of the tracker."""
    tables = any((path / name).exists() for name in ("codes.npz", "codes.csv", "codes"))
    return tables and (path / "images").is_dir() and not (path / "checkpoint").is_dir()


def read_codes(path: Path) -> Source:
    """Open such a data set; see `scene.readers.open_source`. Frames are in the order of the pictures' names."""
    table = read_tables(path, _pictures(path))
    cameras = _cameras(path / CAMERAS) if (path / CAMERAS).is_file() else None
    frames, roots = [], []
    for index, row in enumerate(table.rows):
        codes = _named(row, f"{table.where(index)}")
        frame, root = _frame(path, index, table, codes, cameras)
        frames.append(frame)
        roots.append(root)
    check_alike(frames, lambda frame: table.where(frame.index))
    return Source(tuple(frames), None, TIMES_HELD_OUT, head=read_head_name(path), pending=partial(placed, roots=roots))


def _pictures(path: Path) -> list[str]:
    """Names of the pictures, without their endings, in order."""
    folder = path / "images"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder (it holds the pictures)")
    names = sorted(file.stem for file in folder.iterdir() if file.suffix.lower() in PICTURE_ENDINGS)
    if not names:
        raise FileNotFoundError(f"{folder}: no pictures ({', '.join(PICTURE_ENDINGS)})")
    return names


def _named(row: Mapping[str, Any], where: str) -> dict[str, Floats]:
    """The codes of one picture by our names. ValueError for what is missing, twice there, or of a wrong length."""
    found: dict[str, Floats] = {}
    for name, aliases in NAMES.items():
        there = [alias for alias in aliases if alias in row]
        if len(there) > 1:
            raise ValueError(f"{where}: {' and '.join(there)} say the same; leave one")
        if there:
            found[name] = numbers(dict(row), there[0], (WIDTHS.get(name, -1),), where)
    for name in ("shape", "expression"):
        if name not in found:
            raise ValueError(f"{where}: no {name} codes (under none of {', '.join(NAMES[name])}); there are "
                             f"{', '.join(list(row)[:12]) or 'none'}")
    return _with_pose(found, where)


def _with_pose(found: dict[str, Floats], where: str) -> dict[str, Floats]:
    """`pose` taken apart: of 6 numbers (root, jaw), of 3 (root) or of 15 (root, neck, jaw, eyes)."""
    pose = found.pop("pose", None)
    if pose is None:
        return found
    parts = {3: ("root",), 6: ("root", "jaw"), 15: ("root", "neck", "jaw", "eyes")}.get(len(pose))
    if parts is None:
        raise ValueError(f"{where}: pose: 3 (root), 6 (root, jaw) or 15 numbers (root, neck, jaw, eyes) are expected, "
                         f"got {len(pose)}")
    start = 0
    for part in parts:
        if part in found:
            raise ValueError(f"{where}: pose of {len(pose)} numbers holds {part}, which is there under a name of its "
                             "own too; leave one")
        found[part] = pose[start:start + WIDTHS[part]]
        start += WIDTHS[part]
    return found


def _frame(path: Path, index: int, table: Table, codes: dict[str, Floats],
           cameras: dict[str, tuple[dict[str, Any], str]] | None) -> tuple[Frame, RootPose]:
    name, where = table.names[index], table.where(index)
    image = picture_path(path / "images" / name, where)
    mask = picture_path(path / "masks" / name, where) if (path / "masks").is_dir() else None
    header = masked_picture(image, mask)
    with at(where):
        tracking = tracking_of(codes["shape"], codes["expression"], codes.get("jaw", np.zeros(3)),
                               codes.get("eyes", np.zeros(6)), codes.get("eyelids"), codes.get("neck"))
    if cameras is None:
        camera = _weak_perspective(codes, header, where)
    elif name in cameras:
        camera = _camera(*cameras[name], image, header)
    else:
        raise ValueError(f"{path / CAMERAS}: frames: none has a file_path of the name {name}")
    root = RootPose(conventions.matrix_of_turn(codes.get("root", np.zeros(3))), codes.get("translation", np.zeros(3)))
    return Frame(index, camera, tracking, image, mask), root


def _cameras(path: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Entries of transforms.json by the names of their pictures, each with its place for messages."""
    shared = read_object(path)
    entries = {}
    for number, entry in enumerate(object_list(shared, "frames", str(path))):
        where = f"{path}: frames[{number}]"
        entries[Path(text(entry, "file_path", where)).stem] = (shared | entry, where)
    return entries


def _camera(entry: dict[str, Any], where: str, image: Path, header: PictureHeader) -> Camera:
    R, t = conventions.from_camera_to_world(numbers(entry, "transform_matrix", (4, 4), where), "opengl")
    with at(where):
        return camera_of(R, t, lens_of(entry, image, header, where), header.width, header.height)


def _weak_perspective(codes: dict[str, Floats], header: PictureHeader, where: str) -> Camera:
    """The camera of `cam` = (s, x, y): a point's place in a crop that reaches from -1 to 1 is s (X + x), s (Y + y).

    A lens of FOCAL picture widths at the distance where it has this scale; what is 10 cm nearer or farther then
    differs by a tenth at most.
    """
    if "cam" not in codes:
        raise ValueError(f"{where}: no camera: neither {CAMERAS} nor cam (scale, x, y of the network's crop)")
    scale, x, y = codes["cam"]
    if scale <= 0:
        raise ValueError(f"{where}: cam: a positive scale is expected, got {scale:g}")
    K = conventions.pinhole(FOCAL * header.width, FOCAL * header.width, header.width / 2, header.height / 2)
    t = np.array([x, -y, 2 * FOCAL / scale])
    with at(where):
        return camera_of(np.diag([1.0, -1.0, -1.0]), t, K, header.width, header.height)


def column_names(codes: Mapping[str, NDArray[Any]]) -> list[str]:
    """Headings of a .csv: name_0, name_1, ... of each array, in order."""
    return [f"{name}_{number}" for name, values in codes.items() for number in range(values.shape[-1])]
