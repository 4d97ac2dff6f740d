"""index.html about all subjects, and scores.csv with the same numbers for programs."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.attempt import now
from orchestration.facts import THUMBNAIL
from orchestration.stages import STAGES, Place
from orchestration.standing import Standing, State, progress_of
from utils.atomic import write_text
from utils.report.page import Card, data_uri, rendered
from utils.score_files import METRICS, mean_over_frames

TEMPLATE = Path(__file__).with_name("index_template.html")
SHOWN = 2_000  # subjects on the page: a browser lays out no more in a second
EMBEDDED = 200  # pictures inside the page, about 10 KB each; of more subjects the page loads them from their folders
ORDER: dict[State, int] = {"failed": 0, "running": 1, "busy": 1, "finished": 2, "waiting": 3}
SCORES = {"psnr": ("PSNR", "{:.2f} dB"), "ssim": ("SSIM", "{:.4f}"), "lpips_alex": ("LPIPS (AlexNet)", "{:.4f}"),
          "lpips_vgg": ("LPIPS (VGG16)", "{:.4f}")}
COLUMNS = ("name", "state", "stage", "verdict", *METRICS, "test_frames", *(f"{name}_seconds" for name in STAGES),
           "source", "avatar", "error")


@dataclass(frozen=True)
class Entry:
    """One subject on the page, as texts. psnr: for sorting. links: (text, relative target)."""

    name: str
    state: str
    told: str
    psnr: str
    picture: str
    numbers: list[tuple[str, str]]
    verdict: str
    reasons: list[str]
    times: str
    links: list[tuple[str, str]]
    error: str


@dataclass(frozen=True)
class Page:
    """All that the template shows. shares: of the bar, (state, share). live: whether the page loads itself anew."""

    title: str
    subtitle: str
    facts: list[tuple[str, str]]
    cards: list[Card]
    shares: list[tuple[str, float]]
    filters: list[str]
    entries: list[Entry]
    left_out: str
    live: bool


def write_index(out: Path, standings: Sequence[Standing], seconds: float | None = None) -> None:
    """Write index.html and scores.csv into `out`, each atomically. seconds: since this run began.

    Raises utils.atomic.WriteError.
    """
    shown = sorted(standings, key=lambda standing: ORDER[standing.state])[:SHOWN]
    if len(standings) <= SHOWN:
        shown = list(standings)
    states = Counter(standing.state for standing in standings)
    finished, failed, total = states["finished"], states["failed"], len(standings)
    live = bool(states["running"] or states["busy"] or (seconds is not None and states["waiting"]))
    took = "running for" if live else "last call took"
    psnr = mean_over_frames(_number(_scores(standing).get("psnr")) for standing in standings)
    spent = [sum(_seconds(standing).values()) for standing in standings if standing.state == "finished"]
    page = Page(
        title=out.name,
        subtitle=f"{finished} of {total} avatars finished" + (f", {failed} failed" if failed else ""),
        facts=[("written", now()), *([(took, _duration(seconds))] if seconds is not None else [])],
        cards=[
            Card("Finished", f"{finished:,}", f"of {total:,}", "Subjects whose every stage is done."),
            Card("Failed", f"{failed:,}", "", "Each says why; the others go on. The same command tries again."),
            Card("PSNR", "" if psnr is None else f"{psnr:.2f}", "dB", "Mean over the tested avatars."),
            Card("Time of one", _duration(sum(spent) / len(spent)) if spent else "", "",
                 "Mean over the finished subjects, all stages added, as if one came after another."),
        ],
        shares=[("finished", finished / total), ("running", states["running"] / total), ("failed", failed / total)],
        filters=["all", *(state for state in ORDER if states[state])],
        entries=[_entry(out, standing, total <= EMBEDDED) for standing in shown],
        left_out=f"{len(shown):,} of {total:,} subjects are shown, failed ones first; scores.csv has all."
                 if len(shown) < total else "",
        live=live,
    )
    write_text(out / "index.html", rendered(TEMPLATE, page=page))
    write_text(out / "scores.csv", _table(out, standings))


def _entry(out: Path, standing: Standing, embedded: bool) -> Entry:
    scores = _scores(standing)
    test = standing.facts.records.get("test", {})
    told: str = standing.state
    if standing.state in ("failed", "running", "busy") and standing.stage:
        progress = progress_of(standing) if standing.state == "running" else ""
        told = f"{standing.state}: {standing.stage}{f', {progress}' if progress else ''}"
    numbers = [(label, text.format(value)) for name, (label, text) in SCORES.items()
               if (value := _number(scores.get(name))) is not None]
    if numbers and _number(test.get("frames")) is not None:
        numbers.append(("frames", f"{test['frames']}"))
    verdict = _verdict(standing)
    times = [f"{name} {_duration(value)}" for name, value in _seconds(standing).items()]
    psnr = _number(scores.get("psnr"))
    return Entry(name=standing.subject.name, state=standing.state, told=told, numbers=numbers,
                 psnr="" if psnr is None else f"{psnr:.4f}",
                 picture=_picture(out, standing.place, embedded) if test else "",
                 verdict=str(verdict.get("word", "")), reasons=[str(reason) for reason in verdict.get("reasons") or ()],
                 times=", ".join(times), links=_links(out, standing),
                 error=standing.error if standing.state in ("failed", "waiting") else "")


def _links(out: Path, standing: Standing) -> list[tuple[str, str]]:
    """To what is there."""
    place, records = standing.place, standing.facts.records
    avatar = place.product(STAGES["test"])
    links = [("report", avatar / "report.html")] if "test" in records else []
    links += [("tracking", place.product(STAGES["track"]) / "preview.mp4")] if "track" in records else []
    links += [("exports", place.product(STAGES["export"]))] if "export" in records else []
    links += [("logs", place.logs)] if records or standing.error or standing.stage else []
    return [(name, target.relative_to(out).as_posix()) for name, target in links]


def _picture(out: Path, place: Place, embedded: bool) -> str:
    path = place.product(STAGES["test"]) / THUMBNAIL
    if not embedded:
        return path.relative_to(out).as_posix()
    with suppress(OSError):
        return data_uri(path.read_bytes(), "image/jpeg")
    return ""


def _table(out: Path, standings: Sequence[Standing]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for standing in standings:
        records = standing.facts.records
        avatar = standing.place.product(STAGES["test"]).relative_to(out).as_posix() if "test" in records else ""
        writer.writerow({
            "name": standing.subject.name, "state": standing.state, "stage": standing.stage or "",
            "verdict": _verdict(standing).get("word", ""),
            **{name: _scores(standing).get(name) for name in METRICS},
            "test_frames": records.get("test", {}).get("frames"),
            **{f"{name}_seconds": value for name, value in _seconds(standing).items()},
            "source": standing.subject.source, "avatar": avatar, "error": standing.error})
    return text.getvalue()


def _scores(standing: Standing) -> dict[str, Any]:
    scores = standing.facts.records.get("test", {}).get("scores")
    return scores if isinstance(scores, dict) else {}


def _verdict(standing: Standing) -> dict[str, Any]:
    """Of the tracking: {"word", "reasons"}; empty for a data set that came tracked."""
    verdict = standing.facts.records.get("track", {}).get("verdict")
    return verdict if isinstance(verdict, dict) else {}


def _seconds(standing: Standing) -> dict[str, float]:
    found = {name: _number(record.get("seconds")) for name, record in standing.facts.records.items()}
    return {name: value for name, value in found.items() if value is not None}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
