"""Scores of a batch of frames, over the whole picture and over areas of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from utils import metrics
from utils.lpips import NETWORKS, Lpips, MetricUnavailable, average, load_lpips, spatial
from utils.score_files import Row

PIXELS_AT_ONCE = 1 << 20  # VGG16's first layers hold some 1 kB a pixel: this bounds them to about 1 GB


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
            else:
                try:
                    models[metric] = load_lpips(name, folder, smallest_side)
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
    if not perceptual.models:
        return [{} for _ in range(len(prediction))]
    step = max(1, PIXELS_AT_ONCE // (prediction.shape[-1] * prediction.shape[-2]))
    rows: list[Row] = []
    for start in range(0, len(prediction), step):
        part = slice(start, start + step)
        some = {area: mask[part] for area, mask in masks.items()}
        rows += _rows(_perceptual_columns(perceptual, prediction[part], target[part], some))
    return rows


def _perceptual_columns(
    perceptual: PerceptualMetrics, prediction: Tensor, target: Tensor, masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    columns: dict[str, Tensor] = {}
    for name, model in perceptual.models.items():
        maps = model.maps(prediction, target)
        columns[name] = average(maps)
        everywhere = spatial(maps, prediction.shape[-2], prediction.shape[-1])
        for area, mask in masks.items():
            if area == "head":
                inside = model(prediction * mask[:, None], target * mask[:, None])
                columns[f"head_{name}"] = torch.where(mask.flatten(1).any(dim=1), inside, torch.nan)
            else:
                columns[f"{area}_{name}"] = metrics.masked_mean(everywhere, mask)
    return columns


def _rows(columns: Mapping[str, Tensor]) -> list[Row]:
    """Columns of [B] to one row a frame, without the NaN that stands for an empty area."""
    names, table = list(columns), torch.stack(list(columns.values()), dim=1).tolist()
    return [{name: value for name, value in zip(names, line, strict=True) if value == value} for line in table]
