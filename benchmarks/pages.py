"""The measured tables of README.md and docs/performance.md, made from the rows of `results.csv`.

A page marks where a table stands:

    <!-- figures: NAME -->
    the table, renewed by `python -m benchmarks.figures --write`
    <!-- end of figures -->

`tests/test_figures.py` makes the tables again and compares, and looks for figures that stand outside of them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.results import COLUMNS
from utils.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/performance.md")
BLOCK = re.compile(r"<!-- figures: (?P<name>[\w ]+) -->\n(?P<body>.*?)<!-- end of figures -->", re.DOTALL)
MISSING = "–"
MISSING_SCORES = " / ".join([MISSING] * 3)
CLIPS = ("clip 1", "clip 2")
SUBJECTS = (*CLIPS, "demo subject")
SCORES = ("psnr", "ssim", "lpips_alex", "lpips_vgg")


# Rows of earlier days were measured on another GPU; experiments.md tells of them. A table compares on one machine.
FIRST_DAY = "2026-11-28"
OTHERS = "their own"  # stands for the commit in rows of programs that are not ours


class Row(NamedTuple):
    """One line of `results.csv`."""

    date: str
    commit: str
    gpu: str
    name: str
    setting: str
    value: float
    unit: str


class Rows:
    """The rows that tables may use, and which of them were used since `sources` was called last."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = [row for row in rows if row.date >= FIRST_DAY or row.gpu == "cpu" or row.commit == OTHERS]
        self._used: list[Row] = []

    @classmethod
    def read(cls, path: Path) -> Rows:
        """The rows of a file; a value that is no number raises ValueError with its line."""
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ValueError(f"{path}: wanted the columns {', '.join(COLUMNS)}, got {reader.fieldnames}")
            return cls(Row(line["date"], line["commit"], line["gpu"], line["name"], line["setting"],
                           _number(line, reader.line_num, path), line["unit"])
                       for line in reader)

    def values(self, name: str, pattern: str) -> list[float]:
        """The newest measurement: of all rows whose setting matches as a whole, those of the last one's commit and GPU.
        A setting that was measured twice counts once, the later time. Empty where nothing matches.
        """
        found = [row for row in self._rows if row.name == name and re.fullmatch(pattern, row.setting)]
        newest = {row.setting: row for row in found if row[1:3] == found[-1][1:3]}
        self._used += newest.values()
        return [row.value for row in newest.values()]

    def sources(self) -> str:
        """A line that says where and when the rows used since the last call were measured."""
        used, self._used = self._used, []
        if not used:
            return f"{MISSING}: not measured."
        days: dict[str, set[str]] = {}
        for row in used:
            days.setdefault(row.gpu.replace("cpu", "two CPU cores"), set()).add(row.date)
        return "Measured on: " + "; ".join(f"{gpu}, {' and '.join(sorted(dates))}" for gpu, dates in days.items()) + "."


def _number(line: dict[str, str], number: int, path: Path) -> float:
    try:
        return float(line["value"])
    except ValueError:
        raise ValueError(f"{path}, line {number}: value: wanted a number, got {line['value']!r}") from None


# Cells ---------------------------------------------------------------------------------------------------------------


def shown(values: Sequence[float], form: str) -> str:
    """The mean of some seeds, and their range in brackets where there are several."""
    if not values:
        return MISSING
    mean = format(sum(values) / len(values), form)
    return mean if len(values) == 1 else f"{mean} ({format(min(values), form)} to {format(max(values), form)})"


def score(values: Sequence[float], name: str) -> str:
    """A score: PSNR in dB, the others without the leading zero, as papers print them."""
    text = shown(values, ".2f" if name.endswith("psnr") else ".4f")
    return text if name.endswith("psnr") else re.sub(r"\b0\.", ".", text)


def seeded(label: str, values: Sequence[float]) -> str:
    """The label of a row, with the number of seeds where it is a mean of several."""
    return label if len(values) < 2 else f"{label}, {len(values)} seeds"


def table(head: Sequence[str], lines: Iterable[Sequence[str]], note: str = "") -> str:
    """Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{text}\n\n{note}\n" if note else f"{text}\n"


# Quality -------------------------------------------------------------------------------------------------------------

WAYS = (
    ("our default, tracking refined", r"default, seed \d+"),
    ("our default, not refined", "default, not refined"),
    ("our code with the published method's settings and 40,000 steps, refined", "method's settings, refined"),
    ("the same, not refined", "method's settings, not refined"),
)
OWN_PROGRAM = r"GaussianBlendshapes' own program, {subject}, \d+ iterations"
OWN_LABEL = "GaussianBlendshapes' own program"


def quality(rows: Rows) -> str:
    """All scores of all ways, on the held-out frames of the three subjects."""
    lines = []
    for subject in SUBJECTS:
        for label, way in WAYS:
            pattern = rf"{subject}, {way}, 512x512, \d+ held-out frames"
            found = [rows.values(f"quality_{s}", pattern) for s in SCORES]
            if any(found):
                lines.append([subject, seeded(label, found[0]), *map(score, found, SCORES)])
        if subject in CLIPS:
            own = OWN_PROGRAM.format(subject=subject)
            lines.append([subject, OWN_LABEL, *(score(rows.values(f"quality_{s}", own), s) for s in SCORES)])
    return table(("subject", "avatar", "PSNR, dB", "SSIM", "LPIPS (AlexNet)", "LPIPS (VGG16)"), lines, rows.sources())


def headline(rows: Rows) -> str:
    """The README's excerpt: the default and the method, not refined and refined, on the two clips."""
    lines = []
    for label, way in WAYS:
        cells: list[str] = []
        found: list[list[float]] = [[]]
        for subject in CLIPS:
            pattern = rf"{subject}, {way}, 512x512, \d+ held-out frames"
            found = [rows.values(f"quality_{s}", pattern) for s in SCORES[:3]]
            cells.append(" / ".join(score(_mean(v), s) for v, s in zip(found, SCORES[:3], strict=True)))
        seconds = [rows.values("run_seconds", rf"{subject}, {way}, 512x512") for subject in CLIPS]
        if any(cell != MISSING_SCORES for cell in cells):
            lines.append([seeded(label, found[0]), *cells, ", ".join(shown(_mean(v), ".0f") for v in seconds)])
    own = [OWN_PROGRAM.format(subject=subject) for subject in CLIPS]
    cells = [" / ".join(score(rows.values(f"quality_{s}", p), s) for s in SCORES[:3]) for p in own]
    lines.append([f"{OWN_LABEL} (15,000 and 5,000 steps)", *cells,
                  ", ".join(shown(rows.values("run_seconds", p), ".0f") for p in own)])
    return table(("PSNR / SSIM / LPIPS (AlexNet)", *CLIPS, "seconds, clip 1, clip 2"), lines, rows.sources())


def _mean(values: Sequence[float]) -> list[float]:
    return [sum(values) / len(values)] if values else []


def whole_runs(rows: Rows) -> str:
    """Seconds, average rate, Gaussians and memory of whole commands."""
    lines = []
    for subject in SUBJECTS:
        for label, way in WAYS:
            pattern = rf"{subject}, {way}, 512x512"
            columns = (("seconds", ".1f"), ("images_per_s", ",.0f"), ("gaussians", ",.0f"), ("gpu_memory", ".1f"))
            found = [(rows.values(f"run_{name}", pattern), form) for name, form in columns]
            if any(values for values, _ in found):
                lines.append([subject, label, *(shown(values, form) for values, form in found)])
    head = ("subject", "avatar", "whole command, s", "images/s, average", "Gaussians at the end", "GPU memory, GiB")
    return table(head, lines, rows.sources())


def cost(rows: Rows) -> str:
    """The README's excerpt of it: the default."""
    lines = []
    for subject in SUBJECTS:
        pattern = rf"{subject}, {WAYS[0][1]}, 512x512"
        lines.append([subject, *(shown(rows.values(f"run_{name}", pattern), form) for name, form in (
            ("seconds", ".0f"), ("images_per_s", ",.0f"), ("gpu_memory", ".1f")))])
    peak = shown(rows.values("train_images_per_s", r"B=8 N=65000 P=\d+ K=50 512x512"), ",.0f")
    lines.append(["peak: a new avatar of 65,000 Gaussians, batches of 8, not refined", MISSING, peak, MISSING])
    return table(("default settings, 512 × 512", "whole command, s", "images/s", "GPU memory, GiB"), lines,
                 rows.sources())


# RGBAvatar -----------------------------------------------------------------------------------------------------------

PEER_CLIPS = ("clip 1", "clip 2", "a clip that no default of ours was chosen on", "a second such clip",
              "a synthetic clip with exact tracking")


def peers(rows: Rows) -> str:
    """RGBAvatar and ours side by side; the better of each score is bold."""
    lines = [_peer_line(rows, clip, clip, "ours") for clip in PEER_CLIPS]
    lines.append(_peer_line(rows, "the same, ours with `--refine_tracking False`", PEER_CLIPS[-1], "ours not refined"))
    return table(("PSNR / SSIM / LPIPS (AlexNet)", "RGBAvatar", "ours"), lines, rows.sources())


def _peer_line(rows: Rows, label: str, clip: str, ours: str) -> list[str]:
    both = ("RGBAvatar", ours)
    scores = [[rows.values(f"quality_{s}", f"peer table, {who}, {clip}") for s in SCORES[:3]] for who in both]
    cells = [" / ".join(_better(mine, other, name) for mine, other, name in zip(a, b, SCORES[:3], strict=True))
             for a, b in (scores, scores[::-1])]
    rest = [_speed(rows, who, clip) for who in both]
    return [label, *("; ".join(filter(None, pair)) for pair in zip(cells, rest, strict=True))]


def _better(mine: Sequence[float], other: Sequence[float], name: str) -> str:
    text = score(mine, name)
    if not mine or not other or mine == other:
        return text
    return f"**{text}**" if (mine[0] < other[0]) == name.startswith("lpips") else text


def _speed(rows: Rows, who: str, clip: str) -> str:
    seconds = rows.values("run_seconds", f"peer table, {who}, {clip}")
    rate = rows.values("run_images_per_s", f"peer table, {who}, {clip}")
    return ", ".join([f"{v:.0f} s" for v in seconds] + [f"{v:,.0f} images/s" for v in rate])


# Speed ---------------------------------------------------------------------------------------------------------------


def training(rows: Rows) -> str:
    """Images/s of a new avatar by batch, Gaussians and way."""
    kinds = (("", "as trained without refinement"), (" refined", "tracking refined"), (" eager", "without CUDA graphs"),
             (" naive", "plain torch operations"))
    lines = []
    for kind, label in kinds:
        for batch in (1, 2, 4, 8, 16):
            found = [rows.values("train_images_per_s", rf"B={batch} N={n} P=\d+ K=50 512x512{kind}")
                     for n in (65_000, 110_000)]
            if any(found) or (not kind and batch in (1, 8)):
                lines.append([label, str(batch), *(shown(v, ",.0f") for v in found)])
    own = rows.values("train_images_per_s", OWN_LABEL + ", .*")
    lines.append([f"{OWN_LABEL}, 104,000 Gaussians", "1", MISSING, shown(own, ",.0f")])
    return table(("images/s", "batch", "65,000 Gaussians", "110,000"), lines, rows.sources())


def memory(rows: Rows) -> str:
    """GiB that torch had reserved."""
    lines = [[str(batch), *(shown(rows.values("train_peak_memory", rf"B={batch} N={n} P=\d+ K=50 512x512"), ".1f")
                            for n in (65_000, 110_000))] for batch in (1, 8)]
    return table(("GiB reserved while training, batch", "65,000 Gaussians", "110,000"), lines, rows.sources())


def play(rows: Rows) -> str:
    """Frames/s of playing."""
    ways = (("latency", "latency"), ("stream", "stream"), ("batch B=8", "batch of 8"), ("eager", "plain calls"))
    lines = []
    for way, label in ways:
        cells = [rows.values("render_fps", rf"{way} N=110000 P=\d+ K=50 {size}x{size} {precision}")
                 for size in (512, 1024) for precision in ("half", "full")]
        lines.append([label, *(shown(v, ",.0f") for v in cells)])
    own = shown(rows.values("render_fps", OWN_LABEL + ", .*"), ",.0f")
    lines.append([f"{OWN_LABEL}, plain calls", MISSING, own, MISSING, MISSING])
    head = ("frames/s", "512 × 512, half", "512 × 512, full", "1024 × 1024, half", "1024 × 1024, full")
    return table(head, lines, rows.sources())


def raster(rows: Rows) -> str:
    """The rasterizer alone, ms a frame."""
    size = r"N=111366 512x512, a frame"
    kinds = (("forward, sum of kernels", "raster_fwd_gpu", ", sum of kernels"),
             ("forward + backward, sum of kernels", "raster_fwd_bwd_gpu", ", sum of kernels"),
             ("forward, from an idle device to the result", "raster_fwd_wall", ""),
             ("forward + backward, from an idle device", "raster_fwd_bwd_wall", ""))
    lines = []
    for label, name, tail in kinds:
        cells = [rows.values(name, f"{who} {size}{tail}") for who in (
            "ours batch=1", "ours batch=8", r"gsplat 1\.5\.3 on the H100", "GaussianBlendshapes' own")]
        lines.append([label, *(shown(v, ".3f") for v in cells)])
    return table(("ms a frame", "ours", "ours, batch of 8", "gsplat 1.5.3", OWN_LABEL), lines, rows.sources())


def demo(rows: Rows) -> str:
    """What `make demo` leaves."""
    lines = [[label, *(score(rows.values(f"demo_{s}", f"make demo, {label}"), s) for s in SCORES)]
             for label in ("with blendshapes", "without blendshapes")]
    return table(("make demo, held-out frames", "PSNR, dB", "SSIM", "LPIPS (AlexNet)", "LPIPS (VGG16)"), lines,
                 rows.sources())


def install(rows: Rows) -> str:
    """Download, disk and time."""
    library = "pip install . into an empty environment, torch with CUDA"
    lines = [[label, shown(rows.values(name, setting), form) + unit] for label, name, setting, form, unit in (
        ("download, with torch's CUDA libraries", "install_download", library, ".1f", " GB"),
        ("on disk, with torch's CUDA libraries", "install_disk", library, ".1f", " GB"),
        ("on disk, where torch is the CPU build", "install_disk", "make env, torch for the CPU", ".1f", " GB"),
        ("`make demo` after the installation, two CPU cores", "demo_seconds", "make demo, after the installation",
         ".0f", " s"))]
    return table(("what it takes", ""), lines, rows.sources())


TABLES: dict[str, Callable[[Rows], str]] = {
    function.__name__: function
    for function in (quality, headline, whole_runs, cost, peers, training, memory, play, raster, demo, install)
}


def renewed(text: str, rows: Rows) -> str:
    """A page with the tables that its marks name. Raises ValueError for a name that no table has."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"figures: {name}: wanted one of {', '.join(TABLES)}")
        return f"<!-- figures: {name} -->\n{TABLES[name](rows)}<!-- end of figures -->"

    return BLOCK.sub(block, text)


def renew(results: Path) -> list[Path]:
    """Write the tables of all pages anew; the pages that changed."""
    changed = []
    for page in (ROOT / name for name in PAGES):
        before = page.read_text()
        if (after := renewed(before, Rows.read(results))) != before:
            write_text(page, after)
            changed.append(page)
    return changed
