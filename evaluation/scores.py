"""Scores of frames: computing them, averaging them, and the files they go to (frames.csv, metrics.json)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils import metrics
from utils.atomic import write_json, write_text
from utils.lpips import NETWORKS, Lpips, MetricUnavailable, average, load_lpips, spatial

METRICS = ("psnr", "ssim", "lpips_alex", "lpips_vgg")
AREAS = ("head", "face", "eyes", "mouth")
COLUMNS = (*METRICS, *(f"{area}_{metric}" for area in AREAS for metric in METRICS))
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips_alex": False, "lpips_vgg": False}

Row = dict[str, float]  # column -> value; a column that was not computed for the frame is absent


@dataclass(frozen=True)
class PerceptualMetrics:
    """The LPIPS networks that could be loaded, and for the others why not (metric name -> reason)."""

    models: Mapping[str, Lpips]
    reasons: Mapping[str, str]

    @staticmethod
    def load(folder: Path | None, wanted: Sequence[str], smallest_side: int) -> PerceptualMetrics:
        """Load `wanted` ("alex", "vgg") for images of at least `smallest_side` pixels; never raises for weights."""
        models, reasons = {}, {}
        for name in NETWORKS:
            metric = f"lpips_{name}"
            if name not in wanted:
                reasons[metric] = "not asked for"
            elif smallest_side < NETWORKS[name].smallest:
                reasons[metric] = f"images of {smallest_side} pixels are too small for {NETWORKS[name].name}"
            else:
                try:
                    models[metric] = load_lpips(name, folder)
                except MetricUnavailable as error:
                    reasons[metric] = str(error)
        return PerceptualMetrics(models, reasons)

    def to(self, device: torch.device) -> PerceptualMetrics:
        return PerceptualMetrics({name: model.to(device) for name, model in self.models.items()}, self.reasons)


def measure(prediction: Tensor, target: Tensor, masks: Mapping[str, Tensor]) -> list[Row]:
    """PSNR and SSIM of each frame: prediction, target [B,3,H,W] on black, masks bool [B,H,W] by area name."""
    similarity = metrics.ssim_map(prediction, target).mean(dim=1)
    columns = {"psnr": metrics.psnr(prediction, target), "ssim": similarity.mean(dim=(1, 2))}
    for area, mask in masks.items():
        columns[f"{area}_psnr"] = metrics.psnr(prediction, target, mask)
        columns[f"{area}_ssim"] = metrics.masked_mean(similarity, mask)
    return _rows(columns)


@torch.no_grad()
def measure_perceptual(
    perceptual: PerceptualMetrics, prediction: Tensor, target: Tensor, masks: Mapping[str, Tensor]
) -> list[Row]:
    """LPIPS of each frame, arguments as `measure`; how areas are treated is in `metrics.DEFINITIONS`."""
    height, width = prediction.shape[-2:]
    columns: dict[str, Tensor] = {}
    for name, model in perceptual.models.items():
        maps = model.maps(prediction, target)
        columns[name] = average(maps)
        everywhere = spatial(maps, height, width)
        for area, mask in masks.items():
            if area == "head":
                inside = model(prediction * mask[:, None], target * mask[:, None])
                columns[f"head_{name}"] = torch.where(mask.flatten(1).any(dim=1), inside, torch.nan)
            else:
                columns[f"{area}_{name}"] = metrics.masked_mean(everywhere, mask)
    return _rows(columns) if columns else [{} for _ in range(len(prediction))]


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

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file is no metrics.json, or the two runs were tested on different numbers of frames.
    """
    ours, theirs = read_metrics(metrics_file), read_metrics(other_file)
    if ours["test"]["frames"] != theirs["test"]["frames"]:
        raise ValueError(
            f"{other_file}: tested on {theirs['test']['frames']} frames, {metrics_file} on {ours['test']['frames']}: "
            "the two cannot be compared"
        )
    ours["without_blendshapes"] = theirs["test"]
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
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


def _rows(columns: Mapping[str, Tensor]) -> list[Row]:
    """Columns of [B] to one row a frame, without the NaN that stands for an empty area."""
    names, table = list(columns), torch.stack(list(columns.values()), dim=1).tolist()
    return [{name: value for name, value in zip(names, line, strict=True) if value == value} for line in table]


def _averages(rows: Mapping[int, Row], prefix: str, reasons: Mapping[str, str]) -> dict[str, Any]:
    block: dict[str, Any] = {}
    for metric in METRICS:
        mean = metrics.mean_over_frames(row.get(prefix + metric) for row in rows.values())
        block[metric] = None if mean is None else round(mean, 6)
        if mean is None:
            block[f"{metric}_reason"] = reasons.get(metric, "visible in no frame")
    return block
