"""Replacing derived regions by a user's files: published FLAME masks, or one index list per region."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from flame.regions import FACE_REGIONS, VERTEX_REGIONS, Indices
from utils.arrays import read_npy
from utils.safe_pickle import load_flame_pickle

MASKS_FILE = "FLAME_masks.pkl"
REGIONS_FOLDER = "regions"

_MASKS_OF_REGION = {
    "face": ("face",),
    "mouth": ("lips",),
    "left_eye": ("left_eye_region", "left_eyeball"),
    "right_eye": ("right_eye_region", "right_eyeball"),
    "lower_neck": ("boundary",),
}
"""Our region: the published FLAME masks whose union it becomes. The masks have no occiput; that stays derived."""

_log = logging.getLogger(__name__)


def region_overrides(model: Path, regions: str | Path | None, n_vertices: int, n_faces: int) -> dict[str, Indices]:
    """Regions that files replace.

    Read in this order, later ones winning: `FLAME_masks.pkl` beside the model; a folder `regions` beside it; `regions`,
    when given, a masks pickle or such a folder. A folder holds `<region>.txt` (whitespace-separated) or `<region>.npy`
    with vertex ids, triangle ids where the region's name ends in `_faces`. In `back_of_head` a vertex listed several
    times weighs more in the rigid alignment. Names: see `flame.regions`.

    Raises ValueError naming the file for an unknown region, ids that are no integers or out of range, an empty list;
    FileNotFoundError when `regions` does not exist.
    """
    found: dict[str, Indices] = {}
    for source in (model.parent / MASKS_FILE, model.parent / REGIONS_FOLDER):
        if source.exists():
            _log.info("%s: regions of the head taken from %s", model.name, source)
            found |= _read(source)
    if regions is not None:
        if not Path(regions).exists():
            raise FileNotFoundError(f"{regions}: no such masks file or folder of regions")
        found |= _read(Path(regions))
    for name, ids in found.items():
        limit = n_faces if name in FACE_REGIONS else n_vertices
        if ids.min() < 0 or ids.max() >= limit:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(f"region {name} for {model}: index {wrong} does not fit a head with 0..{limit - 1}")
    if "left_eye" in found and "right_eye" in found and "eyes" not in found:
        found["eyes"] = np.union1d(found["left_eye"], found["right_eye"])
    return found


def _read(source: Path) -> dict[str, Indices]:
    return _read_folder(source) if source.is_dir() else _read_masks(source)


def _read_folder(folder: Path) -> dict[str, Indices]:
    found = {}
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".txt", ".npy"):
            continue
        if file.stem not in VERTEX_REGIONS + FACE_REGIONS:
            known = ", ".join(VERTEX_REGIONS + FACE_REGIONS)
            raise ValueError(f"{file}: unknown region '{file.stem}'; known are {known}")
        try:
            values = read_npy(file) if file.suffix == ".npy" else file.read_text().split()
            found[file.stem] = _indices(values)
        except (ValueError, EOFError, OverflowError) as error:
            raise ValueError(f"{file}: wanted a list of whole numbers, at least one ({error})") from error
    return found


def _read_masks(file: Path) -> dict[str, Indices]:
    masks = load_flame_pickle(file)
    found = {}
    for region, names in _MASKS_OF_REGION.items():
        if all(name in masks for name in names):
            found[region] = np.unique(np.concatenate([_indices(masks[name]) for name in names]))
    if not found:
        raise ValueError(f"{file}: none of the FLAME masks ({', '.join(sum(_MASKS_OF_REGION.values(), ()))}) is in it")
    return found


def _indices(values: Any) -> Indices:
    """A flat int64 array; ValueError when empty or not whole numbers."""
    array = np.asarray(values)
    numbers = array.astype(np.float64).ravel()
    if numbers.size == 0 or not np.array_equal(numbers, np.floor(numbers)):
        raise ValueError(f"got {numbers.size} values of {array.dtype}")
    return numbers.astype(np.int64)
