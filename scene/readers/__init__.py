"""Readers: one file per disk layout, and the only place that knows file names.

A new layout is one module with a function `(path) -> Source` and one row in READERS; `--layout` then knows its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scene.readers.cameras import has_cameras, read_cameras
from scene.readers.codes import looks_like_codes, read_codes
from scene.readers.imavatar import looks_like_imavatar, read_imavatar
from scene.readers.insta_transforms import looks_like_insta_transforms, read_insta_transforms
from scene.readers.nerface import looks_like_nerface, read_nerface
from scene.readers.nersemble import looks_like_nersemble, read_nersemble
from scene.readers.source import MeshCounts, Source
from scene.readers.tracker import looks_like, read_tracker
from scene.readers.unknown import describe, nearest
from scene.readers.vhap import looks_like_vhap, read_vhap

__all__ = ["AUTO", "READERS", "MeshCounts", "Reader", "Source", "layout_of", "open_source"]

AUTO = "auto"


@dataclass(frozen=True)
class Reader:
    """One layout. read: opens a folder. recognises: whether a folder looks like it, told by files that others lack.

    files: patterns of what its folders hold, for the answer to a folder of no layout. flag: the published program's
    boolean flag that chooses it, if there is one.
    """

    read: Callable[[Path], Source]
    recognises: Callable[[Path], bool]
    files: tuple[str, ...] = ()
    flag: str | None = None


_RECORDS = "checkpoint/*.frame"

READERS: dict[str, Reader] = {
    "insta": Reader(partial(read_tracker, mode="insta"), partial(looks_like, mode="insta"),
                    (_RECORDS, "images/*.png")),
    "nerfbs": Reader(partial(read_tracker, mode="nerfbs"), partial(looks_like, mode="nerfbs"),
                     (_RECORDS, "images/*.png", "image_mask/*.png", "bc.jpg"), "use_nerfBS"),
    "hr": Reader(partial(read_tracker, mode="hr"), partial(looks_like, mode="hr"),
                 (_RECORDS, "images.HQ/*.png"), "use_HR"),
    "cameras": Reader(read_cameras, has_cameras, ("cameras/*/checkpoint/*.frame", "cameras/*/images/*.png")),
    "vhap": Reader(read_vhap, looks_like_vhap, ("transforms*.json", "images/*", "fg_masks/*", "flame_param/*.npz")),
    "nersemble": Reader(read_nersemble, looks_like_nersemble,
                        ("camera_params.json", "images/cam_*", "alpha_maps/cam_*", "*flame_param*")),
    "imavatar": Reader(read_imavatar, looks_like_imavatar, ("flame_params.json", "image/*", "mask/*")),
    "nerface": Reader(read_nerface, looks_like_nerface, ("transforms_train.json", "train/*")),
    "insta_transforms": Reader(read_insta_transforms, looks_like_insta_transforms,
                               ("transforms*.json", "images/*.png", "flame/exp/*.txt", "meshes/*.obj")),
    "codes": Reader(read_codes, looks_like_codes, ("codes*", "images/*", "transforms.json")),
}
"""Layouts by name. `auto` takes the first that recognises the folder."""


def layout_of(path: Path) -> str | None:
    """The layout that recognises a folder, or None."""
    return next((name for name, reader in READERS.items() if reader.recognises(path)), None)


def open_source(path: str | Path, layout: str = AUTO) -> Source:
    """Open the data set in folder `path`, laid out as `layout` says (a key of READERS, or auto); check all but pixels.

    Raises:
        FileNotFoundError: the folder or one of its files is missing; the message names the first.
        ValueError: unknown layout, or a file that does not hold what the layout promises; the message names it. For a
            folder that no reader recognises, it says what is there and what the nearest layout misses.
    """
    if layout != AUTO and layout not in READERS:
        raise ValueError(f"--layout {layout}: unknown; known are {', '.join((AUTO, *READERS))}")
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder (a data set is a folder, see docs/data.md for its layout)")
    found = layout_of(path) if layout == AUTO else layout
    return _open_nearest(path) if found is None else READERS[found].read(path)


def _open_nearest(path: Path) -> Source:
    """A folder that is not recognised is read as the layout of which most is there; its error says what is wrong."""
    name, missing = nearest(path, {name: reader.files for name, reader in READERS.items() if reader.files})
    try:
        return READERS[name].read(path)
    except (ValueError, FileNotFoundError) as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{describe(path, name, missing, layout_of)}. As {name}: {error}") from error
