"""Readers: one file per disk layout, and the only place that knows file names.

A new layout is one module with a function `(path) -> Source` and one row in READERS; `--layout` then knows its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scene.readers.codes import looks_like_codes, read_codes
from scene.readers.imavatar import looks_like_imavatar, read_imavatar
from scene.readers.insta_transforms import looks_like_insta_transforms, read_insta_transforms
from scene.readers.nerface import looks_like_nerface, read_nerface
from scene.readers.nersemble import looks_like_nersemble, read_nersemble
from scene.readers.source import MeshCounts, Source
from scene.readers.tracker import looks_like, read_tracker
from scene.readers.vhap import looks_like_vhap, read_vhap

__all__ = ["AUTO", "READERS", "MeshCounts", "Reader", "Source", "open_source"]

AUTO = "auto"


@dataclass(frozen=True)
class Reader:
    """One layout. read: opens a folder. recognises: whether a folder looks like it, told by files that others lack.

    flag: the published program's boolean flag that chooses it, if there is one.
    """

    read: Callable[[Path], Source]
    recognises: Callable[[Path], bool]
    flag: str | None = None


READERS: dict[str, Reader] = {
    **{name: Reader(partial(read_tracker, mode=name), partial(looks_like, mode=name), flag)
       for name, flag in (("insta", None), ("nerfbs", "use_nerfBS"), ("hr", "use_HR"))},
    "vhap": Reader(read_vhap, looks_like_vhap),
    "imavatar": Reader(read_imavatar, looks_like_imavatar),
    "nerface": Reader(read_nerface, looks_like_nerface),
    "insta_transforms": Reader(read_insta_transforms, looks_like_insta_transforms),
    "nersemble": Reader(read_nersemble, looks_like_nersemble),
    "codes": Reader(read_codes, looks_like_codes),
}
"""Layouts by name. `auto` takes the first that recognises the folder."""


def open_source(path: str | Path, layout: str = AUTO) -> Source:
    """Open the data set in folder `path`, laid out as `layout` says (a key of READERS, or auto); check all but pixels.

    A folder that no reader recognises is opened by the first one, whose error says what it misses.

    Raises:
        FileNotFoundError: the folder or one of its files is missing; the message names the first.
        ValueError: unknown layout, or a file that does not hold what the layout promises; the message names it.
    """
    if layout != AUTO and layout not in READERS:
        raise ValueError(f"--layout {layout}: unknown; known are {', '.join((AUTO, *READERS))}")
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder (a data set is a folder, see docs/data.md for its layout)")
    if layout == AUTO:
        layout = next((name for name, reader in READERS.items() if reader.recognises(path)), next(iter(READERS)))
    return READERS[layout].read(path)
