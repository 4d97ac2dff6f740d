"""Codes by name from one file for all pictures, or from a file or a folder for each."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scene.readers.files import beside
from utils.arrays import read_npy, read_npz

FRAME_COLUMNS = ("frame", "name", "image", "file")  # of a .csv, any of them: the picture's name
_COLUMN = re.compile(r"(?P<name>.+?)[_\[ ]?(?P<number>\d+)\]?")


@dataclass(frozen=True)
class Table:
    """rows: one a picture, arrays by the names in the files. names: of the pictures. places: files, for messages."""

    rows: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    places: Sequence[str]

    def where(self, index: int) -> str:
        """The file, and the place in it, of one row."""
        return self.places[index]


def read_tables(path: Path, pictures: list[str]) -> Table:
    """What the folder holds of codes.npz, codes.csv and codes/. Raises FileNotFoundError, ValueError naming a file."""
    if (path / "codes.npz").is_file():
        return _of_arrays(path / "codes.npz", pictures)
    if (path / "codes.csv").is_file():
        return _of_csv(path / "codes.csv", pictures)
    folder = path / "codes"
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: neither codes.npz nor codes.csv nor a folder codes/{beside(folder)}")
    files = [folder / f"{name}.npz" if (folder / f"{name}.npz").is_file() else folder / name for name in pictures]
    rows = [_of_one(file) for file in files]
    return Table(rows, pictures, [str(file) for file in files])


def _of_arrays(path: Path, pictures: list[str]) -> Table:
    """Arrays [T,n] of all pictures; arrays [n] or [1,n] are the same in all, as identities are."""
    arrays = read_npz(path)
    rows: list[dict[str, Any]] = [{} for _ in pictures]
    for name, array in arrays.items():
        shared = array.ndim < 2 or (len(array) == 1 and len(pictures) > 1)
        if not shared and len(array) != len(pictures):
            raise ValueError(f"{path}: {name}: {len(pictures)} rows are expected, one for each picture in images/, got "
                             f"{len(array)}")
        for index, row in enumerate(rows):
            row[name] = array if shared else array[index]
    return Table(rows, pictures, [f"{path}: row {index}" for index in range(len(pictures))])


def _of_csv(path: Path, pictures: list[str]) -> Table:
    """A heading and one line a picture; a column of names may say which."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file) if line]
    if len(lines) < 2:
        raise ValueError(f"{path}: a heading and one line for each picture are expected, got {len(lines)} lines")
    heading, body = [name.strip() for name in lines[0]], lines[1:]
    places = [f"{path}: line {number}" for number in range(2, len(lines) + 1)]
    for place, line in zip(places, body, strict=True):
        if len(line) != len(heading):
            raise ValueError(f"{place}: {len(heading)} values are expected as in the heading, got {len(line)}")
    label = next((heading.index(name) for name in FRAME_COLUMNS if name in heading), None)
    if label is None and len(body) != len(pictures):
        raise ValueError(f"{path}: {len(pictures)} lines are expected, one for each picture in images/, got "
                         f"{len(body)}; a column 'frame' may name the pictures")
    names = pictures if label is None else [Path(line[label].strip()).stem for line in body]
    columns = _columns(path, heading, label)
    rows = [{name: [_number(line[at], place, heading[at]) for at in places_of] for name, places_of in columns.items()}
            for place, line in zip(places, body, strict=True)]
    return Table(rows, names, places)


def _columns(path: Path, heading: list[str], label: int | None) -> dict[str, list[int]]:
    """Name of an array -> its columns by their numbers: exp_0, exp_1, ..."""
    numbered: dict[str, dict[int, int]] = {}
    for at, title in enumerate(heading):
        found = _COLUMN.fullmatch(title)
        if at != label and found:
            numbered.setdefault(found["name"], {})[int(found["number"])] = at
    for name, places in numbered.items():
        start = min(places)
        if start > 1 or sorted(places) != list(range(start, start + len(places))):
            raise ValueError(f"{path}: columns {name}_{start} to {name}_{max(places)} are expected, {len(places)} are "
                             "there")
    return {name: [places[number] for number in sorted(places)] for name, places in numbered.items()}


def _number(text: str, place: str, column: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{place}: {column}: a number is expected, got {text!r:.40}") from None


def _of_one(path: Path) -> dict[str, Any]:
    """The arrays of one picture: a .npz, or a folder of .npy files by name."""
    if path.suffix == ".npz":
        return dict(read_npz(path))
    files = sorted(path.glob("*.npy")) if path.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{path}.npz: missing, and so is a folder {path.name}/ of .npy files{beside(path)}")
    return {file.stem: np.asarray(read_npy(file)) for file in files}
