"""The files of an evaluation and what is in them: frames.csv, one row a frame, and metrics.json, their averages."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import plain_json
from utils.atomic import write_json, write_text

METRICS = ("psnr", "ssim", "lpips_alex", "lpips_vgg")
AREAS = ("head", "face", "eyes", "mouth")
COLUMNS = (*METRICS, *(f"{area}_{metric}" for area in AREAS for metric in METRICS))
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips_alex": False, "lpips_vgg": False}

Row = dict[str, float]  # column -> value; a column that was not computed for the frame is absent


def summarize(rows: Mapping[int, Row], reasons: Mapping[str, str], areas: Sequence[str]) -> dict[str, Any]:
    """The block of metrics.json for one set of frames.

    {"frames", metrics, "head": {"frames", metrics}, "face": ...}; a number that could not be computed is null with
    "<name>_reason" beside it. An area's "frames" counts those in which it is visible; "lpips_frames" appears where
    LPIPS was computed on fewer frames than the rest.

    Args:
        rows: scores by frame index.
        reasons: why metrics ("lpips_alex") or areas ("mouth") are missing.
        areas: those that were measured.
    """
    block: dict[str, Any] = {"frames": len(rows)} | _averages(rows, "", reasons)
    with_lpips = sum(any(name in row for name in ("lpips_alex", "lpips_vgg")) for row in rows.values())
    if 0 < with_lpips < len(rows):
        block["lpips_frames"] = with_lpips
    for area in AREAS:
        if area not in areas:
            block |= {area: None, f"{area}_reason": reasons.get(area, "not measured")}
            continue
        visible = sum(f"{area}_psnr" in row for row in rows.values())
        block[area] = {"frames": visible} | _averages(rows, f"{area}_", reasons)
    return block


def merge_without_blendshapes(metrics_file: Path, other_file: Path) -> dict[str, Any]:
    """Take the "test" block of another run's metrics.json as "without_blendshapes" into `metrics_file` (rewritten).

    "without_blendshapes_run" then holds the way to the other run, from this one, for the report's pictures.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file is no metrics.json, or the two runs were tested on different frames.
    """
    ours, theirs = read_metrics(metrics_file), read_metrics(other_file)
    if ours["test"]["frames"] != theirs["test"]["frames"]:
        raise ValueError(
            f"{other_file}: tested on {theirs['test']['frames']} frames, {metrics_file} on {ours['test']['frames']}: "
            "the two cannot be compared"
        )
    tables = [file.parent / "test" / "frames.csv" for file in (metrics_file, other_file)]
    if all(table.is_file() for table in tables) and read_csv(tables[0]).keys() != read_csv(tables[1]).keys():
        raise ValueError(f"{tables[1]}: other frames than in {tables[0]}: the two cannot be compared")
    ours["without_blendshapes"] = theirs["test"]
    ours["without_blendshapes_run"] = os.path.relpath(other_file.parent, metrics_file.parent)
    write_json(metrics_file, ours)
    return ours


def read_metrics(path: Path) -> dict[str, Any]:
    """A metrics.json with a "test" block. Raises FileNotFoundError, or ValueError naming the file."""
    content = read_json(path)
    if not isinstance(content.get("test"), dict) or "frames" not in content["test"]:
        raise ValueError(f'{path}: expected the scores of a test under "test"; run test.py on this run first')
    return content


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises FileNotFoundError, or ValueError naming the file."""
    try:
        content = plain_json.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def write_csv(path: Path, rows: Mapping[int, Row]) -> None:
    """One line a frame: index, then `COLUMNS`; what was not computed is empty. Written atomically."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", *COLUMNS])
    for index, row in rows.items():
        writer.writerow([index, *(f"{row[name]:.6g}" if name in row else "" for name in COLUMNS)])
    write_text(path, text.getvalue())


def read_csv(path: Path) -> dict[int, Row]:
    """What `write_csv` wrote. Raises ValueError naming the file when it is something else."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not reader.fieldnames or reader.fieldnames[0] != "index":
            raise ValueError(f"{path}: expected a first column 'index', got {reader.fieldnames}")
        return {
            int(line["index"]): {name: float(value) for name, value in line.items() if name != "index" and value}
            for line in reader
        }


def mean_over_frames(values: Iterable[float | None]) -> float | None:
    """Average of the numbers that exist (not None, not NaN); None when there is none."""
    known = [value for value in values if value is not None and value == value]
    return sum(known) / len(known) if known else None


def _averages(rows: Mapping[int, Row], prefix: str, reasons: Mapping[str, str]) -> dict[str, Any]:
    block: dict[str, Any] = {}
    for metric in METRICS:
        mean = mean_over_frames(row.get(prefix + metric) for row in rows.values())
        block[metric] = None if mean is None else round(mean, 6)
        if mean is None:
            block[f"{metric}_reason"] = reasons.get(metric, "visible in no frame")
    return block
