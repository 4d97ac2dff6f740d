"""This run against the same training without blendshapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from utils.report.folder import SplitFolder, picture, zoom
from utils.report.page import Comparison, Strip, Table, Verdict
from utils.score_files import AREAS, HIGHER_IS_BETTER, METRICS

NAMES = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips_alex": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG16)",
    "": "Whole frame",
    "head": "Head",
    "face": "Face",
    "eyes": "Eyes",
    "mouth": "Mouth",
}
ARROWS = {metric: NAMES[metric] + (" ↑" if up else " ↓") for metric, up in HIGHER_IS_BETTER.items()}
ZOOM_ASPECT = {"eyes": 2.4, "mouth": 2.0}
GROUND_TRUTH, PREDICTION = "ground truth", "prediction"


def score(block: Mapping[str, Any], area: str, metric: str) -> float | None:
    """A number of a metrics.json block; area "" is the whole frame. None where it was not computed."""
    part = block.get(area) if area else block
    return part.get(metric) if isinstance(part, Mapping) else None


def shown(metric: str, value: float | None, signed: bool = False) -> str:
    """A score as text: two decimals for dB, four otherwise; an en dash for what is missing."""
    if value is None:
        return "–"
    text = f"{value:{'+' if signed else ''}.{2 if metric == 'psnr' else 4}f}"
    return text.replace("-", "−")


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], area: str, metric: str) -> float | None:
    """Ours minus theirs, None where either is missing."""
    a, b = score(ours, area, metric), score(theirs, area, metric)
    return None if a is None or b is None else a - b


def card_comparison(ours: Mapping[str, Any], theirs: Mapping[str, Any] | None, metric: str) -> tuple[str, bool | None]:
    """Text and verdict under a headline number."""
    change = difference(ours, theirs, "", metric) if theirs else None
    if change is None:
        return "", None
    unit = " dB" if metric == "psnr" else ""
    return f"{shown(metric, change, signed=True)}{unit} by blendshapes", _better(metric, change)


def compare(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], here: SplitFolder, there: SplitFolder | None, frames: int
) -> Comparison:
    """Summary, bars, table and pictures; `there` is None when only the other run's numbers are known."""
    changes = {area: difference(ours, theirs, area, "psnr") for area in ("", *AREAS)}
    known = {area: change for area, change in changes.items() if change is not None}
    largest = max((abs(change) for change in known.values()), default=0) or 1
    verdicts = [
        Verdict(NAMES[area], f"{shown('psnr', change, signed=True)} dB", abs(change) / largest, change > 0)
        for area, change in known.items()
    ]
    gains = _gains(here, there) if there else {}
    strips = _strips(here, there, gains, frames) if there else []
    return Comparison(_summary(known, gains), verdicts, _table(ours, theirs), strips)


def _better(metric: str, change: float) -> bool | None:
    return None if change == 0 else (change > 0) == HIGHER_IS_BETTER[metric]


def _summary(changes: Mapping[str, float], gains: Mapping[int, float]) -> str:
    if "" not in changes:
        return "PSNR is missing from one of the two runs."
    whole = changes[""]
    word = "higher" if whole > 0 else "lower"
    text = f"With one set of differences for each expression, held-out PSNR is {abs(whole):.2f} dB {word} than without."
    if gains:
        wins = sum(gain > 0 for gain in gains.values())
        text += f" They win in {wins} of {len(gains)} frames."
    parts = {area: change for area, change in changes.items() if area}
    if parts:
        most = max(parts, key=lambda area: parts[area])
        change = f"{shown('psnr', parts[most], signed=True)} dB"
        text += f" The {NAMES[most].lower()} gains most ({change})." if parts[most] > 0 else ""
    return text


def _table(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Table:
    """One row an area, in each cell our number over theirs and the difference."""
    areas = [area for area in ("", *AREAS) if score(ours, area, "psnr") is not None]
    rows = [[NAMES[area], *(_cell(ours, theirs, area, metric) for metric in METRICS)] for area in areas]
    return Table(["with blendshapes / without", *(ARROWS[metric] for metric in METRICS)], rows)


def _cell(ours: Mapping[str, Any], theirs: Mapping[str, Any], area: str, metric: str) -> Markup:
    change = difference(ours, theirs, area, metric)
    style = {True: "good", False: "bad", None: ""}[_better(metric, change) if change is not None else None]
    return Markup('{}<small>{} <b class="{}">{}</b></small>').format(
        shown(metric, score(ours, area, metric)),
        shown(metric, score(theirs, area, metric)),
        style,
        "" if change is None else shown(metric, change, signed=True),
    )


def _gains(here: SplitFolder, there: SplitFolder) -> dict[int, float]:
    """PSNR gain of every frame that both runs scored."""
    other = there.rows
    return {index: row["psnr"] - other[index]["psnr"] for index, row in here.rows.items() if index in other}


def _strips(here: SplitFolder, there: SplitFolder, gains: Mapping[int, float], count: int) -> list[Strip]:
    """Frames from the largest to the smallest gain, evenly spread over the ranking: the bad ones are shown too."""
    drawn = {i: gain for i, gain in gains.items() if here.has_picture(i) and there.has_picture(i)}
    ranked = sorted(drawn, key=lambda index: -drawn[index])
    if not ranked:
        return []
    places = [round(i * (len(ranked) - 1) / max(count - 1, 1)) for i in range(min(count, len(ranked)))]
    first, last = ("Largest gain", "Smallest gain") if len(drawn) == len(gains) else ("Large gain", "Small gain")
    labels = [first, *["In between"] * (len(places) - 2), last][: len(places)]
    strips = []
    for label, place in zip(labels, places, strict=True):
        index = ranked[place]
        subtitle = f"frame {index}, {shown('psnr', drawn[index], signed=True)} dB"
        strips += _frame_strips(here, there, index, label, subtitle)
    return strips


def _frame_strips(here: SplitFolder, there: SplitFolder, index: int, title: str, subtitle: str) -> list[Strip]:
    ours, theirs = here.panels(index), there.panels(index)
    images = {
        "without blendshapes": theirs[PREDICTION],
        "with blendshapes": ours[PREDICTION],
        GROUND_TRUTH: ours[GROUND_TRUTH],
        "error without": theirs["error"],
        "error with": ours["error"],
    }
    strips = [Strip(title, subtitle, [picture(image, caption) for caption, image in images.items()])]
    for area, aspect in ZOOM_ASPECT.items():
        box = here.box(index, area)
        if box is not None:
            details = [picture(zoom(image, box, aspect), caption) for caption, image in list(images.items())[:3]]
            strips.append(Strip("", f"{NAMES[area].lower()}, enlarged", details))
    return strips
