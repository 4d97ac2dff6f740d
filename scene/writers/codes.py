"""The inverse of scene/readers/codes.py: codes.npz (or codes.csv) by name, pictures, cameras as nerfstudio has them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flame import Head
from scene import conventions
from scene.readers.codes import CAMERAS, NAMES, column_names
from scene.readers.source import Source
from scene.writers.common import refuse_several_views, without_offset, write_head_name, write_pictures
from utils.arrays import write_npz
from utils.atomic import write_json, write_text


def write_codes(folder: Path, source: Source, head: Head, table: str = "npz") -> None:
    """Write `source`, which is complete, into `folder`. table: "npz" or "csv". The head stands still in it.

    Raises utils.atomic.WriteError, OSError, and ValueError for several cameras, or naming a picture.
    """
    refuse_several_views(source, "codes")
    without_offset(head, source)  # says that it is left out
    arrays = _arrays(source)
    if table == "npz":
        write_npz(folder / "codes.npz", arrays)
    else:
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["frame", *column_names(arrays)])
        for index in range(len(source.frames)):
            lines.writerow([f"{index:05d}", *(f"{value:.9g}" for array in arrays.values() for value in array[index])])
        write_text(folder / "codes.csv", text.getvalue())
    K = source.frames[0].camera.K.astype(float)
    camera = source.frames[0].camera
    write_json(folder / CAMERAS, {
        "w": camera.width, "h": camera.height, "fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2], "cy": K[1, 2],
        "frames": [{"file_path": f"images/{frame.index:05d}.png", "transform_matrix": conventions.to_camera_to_world(
            frame.camera.R, frame.camera.t, "opengl").tolist()} for frame in source.frames]})
    write_head_name(folder, source)
    write_pictures(source.frames, lambda frame: folder / "images" / f"{frame.index:05d}.png")


def _arrays(source: Source) -> dict[str, NDArray[Any]]:
    """Codes [T,n] by the names in files."""
    codes = [frame.tracking for frame in source.frames]
    arrays = {name: np.stack([getattr(row, name) for row in codes]) for name in ("shape", "expression", "eyelids")}
    turns = {"jaw": [row.jaw for row in codes], "eyes": [row.eyes for row in codes]}
    if codes[0].neck is not None:
        turns["neck"] = [row.neck for row in codes if row.neck is not None]
    arrays |= {name: np.stack([conventions.turns_of_six(six) for six in sixes]).astype(np.float32)
               for name, sixes in turns.items()}
    return {NAMES[name][0]: array for name, array in arrays.items()}
