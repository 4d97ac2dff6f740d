"""ARKit blendshapes as capture apps write them: Live Link Face's CSV, and any table with the 52 names in its header.

    Timecode,BlendShapeCount,EyeBlinkLeft,...,TongueOut,HeadYaw,HeadPitch,HeadRoll,LeftEyeYaw,...
    00:12:03:41.512,61,0.0412,...
"""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flame import Head
from reenactment.arkit import arkit_head, codes_of_scores, score_key
from reenactment.motion import HeadMotion, motion_of_angles
from scene.rig import Codes

FEWEST = 20  # blendshapes in a header; a table with fewer is another kind of table
HEAD_ANGLES = ("headyaw", "headpitch", "headroll")
RATES = (24.0, 25.0, 30.0, 48.0, 50.0, 60.0, 90.0, 120.0)  # frames a second that timecodes count in
USUAL_RATE = 60.0  # Live Link Face's
SECONDS = {"time": 1.0, "timestamp": 1.0, "seconds": 1.0, "timestampms": 1e-3, "timems": 1e-3, "milliseconds": 1e-3}


@dataclass(frozen=True, eq=False)
class Take:
    """What a CSV holds: codes of ARKit's head, how the head turns (None: no such columns), frames a second (None: no
    times in it), and what the user should know.
    """

    head: Head
    codes: Codes
    motion: HeadMotion | None
    fps: float | None
    notes: tuple[str, ...]


def read_arkit_csv(path: Path, head_flip: Sequence[str] = ()) -> Take:
    """Read a CSV of blendshapes. head_flip: any of yaw, pitch, roll, whose signs are turned: apps do not agree.

    Rows in which the app had lost the face (no scores) repeat the row before. Head angles are radians, or degrees where
    one exceeds pi. ValueError naming the file, the row and the column of what cannot be used.
    """
    header, rows = _table(path)
    keys = [score_key(name) for name in header]
    columns = _score_columns(path, header, keys)
    angles_at = {keys.index(key) for key in HEAD_ANGLES if key in keys}
    rows, lost = _tracked_rows(path, rows, columns, {*columns.values(), *angles_at})
    scores = {name: _column(path, rows, column, header[column]) for name, column in columns.items()}
    largest = max(float(values.max()) for values in scores.values())
    if largest > 2:
        raise ValueError(f"{path}: wanted scores of 0 to 1, got values up to {largest:g}; divide them by 100 if they "
                         "are in per cent")
    head = arkit_head()
    motion = None
    if all(key in keys for key in HEAD_ANGLES):
        angles = [_column(path, rows, keys.index(key), header[keys.index(key)]) for key in HEAD_ANGLES]
        motion = _motion(angles, head_flip)
    missing = [name for name in head.expression_names if name not in columns and name != "tongueOut"]
    notes = [f"{path.name}: no column for {', '.join(missing)}; taken as 0"] if missing else []
    notes += [f"{path.name}: {lost} rows without scores repeat the row before"] if lost else []
    return Take(head, codes_of_scores(head, scores), motion, _rate(header, keys, rows), tuple(notes))


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows, empty lines and repetitions of the header left out; every row as long as the header.

    A row of empty cells stays: it is a frame in which the app had lost the face.
    """
    lines = _text(path).splitlines()
    told = re.fullmatch(r'"?sep=(.)"?', lines[0].strip()) if lines else None  # Excel's own first line
    lines = lines[1:] if told else lines
    first = next((line for line in lines if re.search(r"\w", line)), "")
    delimiter = told[1] if told else max(",;\t", key=first.count)
    table = [row for row in csv.reader(lines, delimiter=delimiter) if len(row) > 1 or any(cell.strip() for cell in row)]
    if not any(cell.strip() for row in table for cell in row):
        raise ValueError(f"{path}: empty; wanted a header with ARKit's blendshape names and a row for each frame")
    at = next(number for number, row in enumerate(table) if any(cell.strip() for cell in row))
    header = table[at]
    rows = [[*row, *[""] * (len(header) - len(row))] for row in table[at + 1:] if row != header]
    if not rows:
        raise ValueError(f"{path}: a header without rows; wanted a row for each frame")
    if delimiter != ",":  # where a comma does not part cells, it may be a decimal comma
        rows = [[re.sub(r"^(\s*[-+]?\d*),(\d+(?:[eE][-+]?\d+)?\s*)$", r"\1.\2", cell) for cell in row] for row in rows]
    return header, rows


def _text(path: Path) -> str:
    """The file's text: UTF-8, or UTF-16 with its mark, as spreadsheets save Unicode."""
    data = path.read_bytes()
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: wanted a CSV in UTF-8 or UTF-16, got other bytes ({error}); save it as "
                         "UTF-8") from None


def _score_columns(path: Path, header: list[str], keys: list[str]) -> dict[str, int]:
    """ARKit name -> column."""
    names = {score_key(name): name for name in arkit_head().expression_names}
    columns = {names[key]: column for column, key in enumerate(keys) if key in names}
    if len(columns) < FEWEST:
        shown = ", ".join(header[:5])
        raise ValueError(f"{path}: wanted a header with ARKit's 52 blendshape names (eyeBlinkLeft, jawOpen, "
                         f"mouthSmileLeft, ...), got {len(columns)} of them in: {shown}{' ...' * (len(header) > 5)}")
    return columns


def _tracked_rows(
    path: Path, rows: list[list[str]], columns: dict[str, int], measured: set[int]
) -> tuple[list[list[str]], int]:
    """Rows with the last tracked cells of the columns `measured` where the face was lost, and how many those are.

    All other cells, times among them, stay the row's own; rows before the first tracked one take its cells.
    """
    found = [any(row[column].strip() for column in columns.values()) for row in rows]
    if not any(found):
        raise ValueError(f"{path}: not one of its {len(rows)} rows has scores; the app never saw a face")
    kept: list[list[str]] = []
    last = rows[found.index(True)]
    for row, tracked in zip(rows, found, strict=True):
        last = row if tracked else last
        kept.append([last[column] if column in measured else cell for column, cell in enumerate(row)])
    return kept, found.count(False)


def _column(path: Path, rows: list[list[str]], column: int, name: str) -> Tensor:
    values = []
    for number, row in enumerate(rows, start=2):  # as editors count, the header being line 1
        cell = row[column].strip()
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{path}: row {number}, column {name}: wanted a finite number, got {cell!r}")
        values.append(value)
    return torch.tensor(values, dtype=torch.float32)


def _motion(angles: list[Tensor], head_flip: Sequence[str]) -> HeadMotion:
    largest = max(float(values.abs().max()) for values in angles)
    unit = math.pi / 180 if largest > math.pi else 1.0
    signs = [-unit if name in head_flip else unit for name in ("yaw", "pitch", "roll")]
    return motion_of_angles(*(sign * values for sign, values in zip(signs, angles, strict=True)))


def _rate(header: list[str], keys: list[str], rows: list[list[str]]) -> float | None:
    """Frames a second of the rows, from time codes or a column of times; None where there are none that make sense."""
    times: NDArray[np.float64] | None = None
    for column, name in enumerate(header):
        key = re.sub(r"[^a-z]", "", name.lower())
        cells = [row[column] for row in rows]
        if key == "timecode":
            times = _timecodes(cells)
        elif key in SECONDS:
            try:
                times = SECONDS[key] * np.array([float(cell) for cell in cells])
            except ValueError:
                continue
        if times is not None:
            break
    if times is None or len(times) < 2 or not np.isfinite(times).all():
        return None
    step = float(np.median(np.diff(times)))
    return float(1 / step) if 1 / 1000 < step < 1 else None


def _timecodes(cells: list[str]) -> NDArray[np.float64] | None:
    """Seconds of hh:mm:ss:ff.fff, whose last part counts frames (of the rate that the largest count needs)."""
    parts = [re.fullmatch(r"(\d+):(\d+):(\d+)[:;](\d+(?:\.\d+)?)", cell.strip()) for cell in cells]
    if any(part is None for part in parts):
        return None
    numbers = np.array([[float(part[k]) for k in range(1, 5)] for part in parts if part is not None])
    rate = next((rate for rate in RATES if rate > numbers[:, 3].max() - 1), 1000.0)
    if len(np.unique(numbers[:, 2])) < 2:  # within one second the count has not been seen to start anew
        rate = max(rate, USUAL_RATE)
    return np.asarray(numbers @ np.array([3600, 60, 1, 1 / rate]))
