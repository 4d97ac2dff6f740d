"""Reads a run's folder and writes its report."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from utils.environment import describe_environment
from utils.report.charts import Series, line_chart
from utils.report.compare import ARROWS, NAMES, card_comparison, compare, score, shown
from utils.report.folder import SplitFolder, picture
from utils.report.page import Card, Page, Strip, Table, data_uri, write_page
from utils.score_files import AREAS, METRICS, read_json

LARGEST_EMBEDDED_VIDEO = 24 << 20  # bytes; a longer film stays beside the page, which then links to it
CARD_TEXTS = {
    "psnr": "Signal to noise of the whole frame: error pooled over pixels and channels. Higher is better.",
    "ssim": "Structural similarity, 11 × 11 Gaussian window. 1 is identical.",
    "lpips_alex": "Learned perceptual distance, AlexNet features. Lower is better.",
    "lpips_vgg": "Learned perceptual distance, VGG16 features. Lower is better.",
}
CHARTS = {"psnr": "dB", "ssim": "", "lpips_alex": "", "mouth_psnr": "dB"}
SPLIT_WORDS = {"test": "held-out frames", "train": "training frames", "all": "frames of the whole clip"}
TRACKING_WORDS = {
    "as_tracked": "as tracked",
    "predicted": "corrected as training suggests",
    "seen": "estimated from each picture through the avatar",
}
KINDS = {"best": "Best", "median": "Median", "worst": "Worst"}


def write_report(
    run: Path,
    split: str | None = None,
    title: str | None = None,
    environment: Mapping[str, str] | None = None,
    compared_frames: int = 3,
) -> Path:
    """Write run/report.html from metrics.json, run/<split>/, and config.json and training.csv where they exist.

    Args:
        run: a run's folder after `evaluation.evaluate`.
        split: which evaluation to show; None: "test", or else the first that was made.
        title: page title; None: the run folder's name.
        environment: facts about machine and software; None: those of this process.
        compared_frames: how many frames to show with and without blendshapes.

    Returns:
        The page's path. The comparison is shown when metrics.json holds "without_blendshapes"
        (`utils.score_files.merge_without_blendshapes`), with pictures while the other run's folder exists.

    Raises:
        FileNotFoundError: the run has not been evaluated.
        ValueError: a file is damaged, or metrics.json has no such split.
        utils.atomic.WriteError: the disk refused.
    """
    metrics = read_json(run / "metrics.json")
    splits = [name for name in SPLIT_WORDS if isinstance(metrics.get(name), dict)]
    if not splits or (split is not None and split not in splits):
        raise ValueError(f"{run / 'metrics.json'}: expected scores of {split or 'a split'}, found {splits}")
    here = SplitFolder(run, split or splits[0])
    training = _training(run / "training.csv")
    page = _page(here, metrics, training, title or run.resolve().name, environment, compared_frames)
    write_page(run / "report.html", page)
    return run / "report.html"


def _page(
    here: SplitFolder,
    metrics: dict[str, Any],
    training: dict[str, list[float]],
    title: str,
    environment: Mapping[str, str] | None,
    compared_frames: int,
) -> Page:
    block = metrics[here.split]
    theirs = metrics.get("without_blendshapes") if here.split == "test" else None
    there = _other_run(here, metrics) if theirs else None
    return Page(
        title=title,
        subtitle=f"Head avatar of 3D Gaussians, scored on {block['frames']} {SPLIT_WORDS[here.split]}.",
        facts=_facts(here, block, training),
        cards=[_card(block, theirs, metric) for metric in METRICS],
        reasons=_reasons(block),
        protocols=_protocols(here.split, metrics),
        video=_video(here),
        video_caption=f"{', '.join(here.record['panels'])}; all {SPLIT_WORDS[here.split]}, in order.",
        comparison=compare(block, theirs, here, there, compared_frames) if theirs else None,
        areas=None if theirs else _areas(block),  # the comparison's table holds the same numbers
        groups=_groups(block),
        frame_charts=_frame_charts(here, there),
        strips={KINDS[kind]: _strips(here, frames) for kind, frames in here.record["selection"].items() if frames},
        error_colors=here.record["error_colors"],
        error_limit=here.record["error_limit"],
        training_charts=_training_charts(training),
        definitions=[(_definition_name(name), text) for name, text in metrics["definitions"].items()],
        settings=_settings(here.run / "config.json"),
        environment=environment if environment is not None else describe_environment(),
        timing=_timing(here, training),
    )


def _facts(here: SplitFolder, block: Mapping[str, Any], training: Mapping[str, list[float]]) -> list[tuple[str, str]]:
    facts = [("frames", str(block["frames"]))]
    if training:
        facts.append(("iterations", f"{training['iteration'][-1]:,.0f}"))
        facts.append(("Gaussians", f"{training['gaussians'][-1]:,.0f}"))
        facts.append(("training", _duration(training["seconds"][-1])))
    return [*facts, ("rendering", f"{here.record['render_ms_per_frame']:.1f} ms a frame on {here.record['device']}")]


def _card(block: Mapping[str, Any], theirs: Mapping[str, Any] | None, metric: str) -> Card:
    value = block.get(metric)
    comparison, better = card_comparison(block, theirs, metric)
    text = "" if value is None else shown(metric, value)
    return Card(NAMES[metric], text, "dB" if metric == "psnr" else "", CARD_TEXTS[metric], comparison, better)


def _reasons(block: Mapping[str, Any]) -> list[str]:
    missing = [name for name in (*METRICS, *AREAS) if block.get(name) is None]
    texts = [
        f"{NAMES[name]}: not computed, because {block.get(f'{name}_reason', 'it is missing')}." for name in missing
    ]
    if "lpips_frames" in block:
        texts.append(f"LPIPS was computed on {block['lpips_frames']} of the {block['frames']} frames.")
    return texts


def _protocols(split: str, metrics: Mapping[str, Any]) -> Table | None:
    """The same frames by where their pose and codes came from; None where test.py scored in one way only."""
    blocks = [metrics[split], *(metrics[name] for name in (f"{split}_{way}" for way in TRACKING_WORDS)
                                if name in metrics)]
    if len(blocks) < 2:
        return None
    blocks.sort(key=lambda block: list(TRACKING_WORDS).index(block["tracking"]))
    rows = [[TRACKING_WORDS[block["tracking"]], *(shown(metric, block.get(metric)) for metric in METRICS)]
            for block in blocks]
    return Table(["pose and codes", *(ARROWS[metric] for metric in METRICS)], rows)


def _areas(block: Mapping[str, Any]) -> Table:
    rows = []
    for area in ("", *AREAS):
        if area and block.get(area) is None:
            continue
        frames = (block[area] if area else block)["frames"]
        rows.append([NAMES[area], *(shown(metric, score(block, area, metric)) for metric in METRICS), str(frames)])
    return Table(["", *(ARROWS[metric] for metric in METRICS), "frames"], rows)


def _groups(block: Mapping[str, Any]) -> Table | None:
    """Frames of several cameras by what is new in them, and by camera."""
    named = [(name.replace("_", " "), part) for name, part in block.get("parts", {}).items()]
    named += [(f"camera {name}", part) for name, part in block.get("cameras", {}).items()]
    rows = [[name, *(shown(metric, part[metric]) for metric in METRICS), str(part["frames"])] for name, part in named]
    return Table(["", *(ARROWS[metric] for metric in METRICS), "frames"], rows) if rows else None


def _frame_charts(here: SplitFolder, there: SplitFolder | None) -> list[Markup]:
    charts = []
    for column, unit in CHARTS.items():
        area, _, metric = column.rpartition("_") if column in ("mouth_psnr",) else ("", "", column)
        series = [_series("with blendshapes" if there else NAMES[metric], here, column, "primary")]
        series += [_series("without", there, column, "secondary")] if there else []
        name = f"{NAMES[metric]}, {NAMES[area].lower()}" if area else NAMES[metric]
        charts.append(line_chart(name, "frame", unit, series))
    return [chart for chart in charts if chart]


def _series(name: str, folder: SplitFolder, column: str, style: str) -> Series:
    points = [(index, row[column]) for index, row in folder.rows.items() if column in row]
    return Series(name, [index for index, _ in points], [value for _, value in points], style, sampled=True)


def _strips(here: SplitFolder, frames: list[int]) -> list[Strip]:
    strips = []
    for index in frames:
        row = here.rows[index]
        scores = [f"{NAMES[metric]} {shown(metric, row[metric])}" for metric in METRICS if metric in row]
        pictures = [picture(image, caption) for caption, image in here.panels(index).items()]
        strips.append(Strip(f"Frame {index}", ", ".join(scores), pictures))
    return strips


def _video(here: SplitFolder) -> str:
    """Source of the film; empty when there is none."""
    path = here.path / "video.mp4"
    if not path.is_file():
        return ""
    if path.stat().st_size > LARGEST_EMBEDDED_VIDEO:
        return f"{here.split}/{path.name}"
    return data_uri(path.read_bytes(), "video/mp4")


def _training(path: Path) -> dict[str, list[float]]:
    """Columns of training.csv; empty when training left none. Raises ValueError naming the file."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = {"iteration", "loss", "psnr", "gaussians", "seconds"}
    if rows and not wanted <= rows[0].keys():
        raise ValueError(f"{path}: expected columns {sorted(wanted)}, got {sorted(rows[0])}")
    return {name: [float(row[name] or math.nan) for row in rows] for name in sorted(wanted)} if rows else {}


def _training_charts(training: Mapping[str, list[float]]) -> list[Markup]:
    if not training:
        return []
    steps, seconds = training["iteration"], training["seconds"]
    rate = np.divide(
        np.diff(steps), np.diff(seconds), out=np.full(max(len(steps) - 1, 0), np.nan), where=np.diff(seconds) > 0
    )
    charts = [
        line_chart("Loss", "iteration", "", [Series("loss", steps, training["loss"])]),
        line_chart("PSNR of the training frames", "iteration", "dB", [Series("psnr", steps, training["psnr"])]),
        line_chart("Gaussians", "iteration", "", [Series("gaussians", steps, training["gaussians"])]),
        line_chart("Speed", "iteration", "iterations a second", [Series("rate", steps[1:], rate.tolist())]),
    ]
    return [chart for chart in charts if chart]


def _timing(here: SplitFolder, training: Mapping[str, list[float]]) -> dict[str, str]:
    timing = {}
    if training:
        timing["training"] = _duration(training["seconds"][-1])
        timing["iterations a second"] = f"{training['iteration'][-1] / max(training['seconds'][-1], 1e-9):.1f}"
    milliseconds = here.record["render_ms_per_frame"]
    timing["rendering a frame"] = f"{milliseconds:.1f} ms ({1000 / max(milliseconds, 1e-9):.0f} frames a second)"
    timing["evaluation, all of it"] = _duration(here.record["seconds"])
    return timing | {"device": here.record["device"]}


def _settings(path: Path) -> dict[str, dict[str, str]]:
    """config.json, one level of groups deep: group -> name -> text."""
    if not path.is_file():
        return {}
    groups: dict[str, dict[str, str]] = {}
    for name, value in read_json(path).items():
        items = value.items() if isinstance(value, dict) else [(name, value)]
        group = name if isinstance(value, dict) else "general"
        groups.setdefault(group, {}).update({key: _text(item) for key, item in items})
    return groups


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _other_run(here: SplitFolder, metrics: Mapping[str, Any]) -> SplitFolder | None:
    """The run without blendshapes, unless its folder has gone."""
    if "without_blendshapes_run" not in metrics:
        return None
    other = SplitFolder(here.run / metrics["without_blendshapes_run"], here.split)
    return other if (other.path / "frames.csv").is_file() else None


def _definition_name(name: str) -> str:
    return NAMES.get(name, {"region_lpips": "LPIPS in regions"}.get(name, name.capitalize()))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
