"""What the records of finished stages say about a subject: scores, verdict, times, a picture."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestration.attempt import read_record
from orchestration.stages import STAGES, Place
from orchestration.subjects import Subject
from utils.images import resize_area, write_image
from utils.report.folder import SplitFolder
from utils.score_files import METRICS

SPLITS = ("test", "train", "all")
THUMBNAIL, THUMBNAIL_SIDE = "fleet.jpg", 160  # a truth and a prediction side by side, pixels each


@dataclass
class Facts:
    """Of one subject: the records of its finished stages by name, and where its latest failure is told."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    failure: dict[str, Any] = field(default_factory=dict)

    def left(self, subject: Subject) -> list[str]:
        """The stages to do: those after the last one that is finished. What came before may have been deleted since."""
        done = [number for number, name in enumerate(subject.stages) if name in self.records]
        return subject.stages[done[-1] + 1 if done else 0:]

    def next_stage(self, subject: Subject, stages: Iterable[str]) -> str | None:
        """The first stage to do of those that may be run; None when there is none.

        A stage that needs one that may not be run is named all the same: it fails and says what it misses.
        """
        return next((name for name in self.left(subject) if name in stages), None)


def facts_of(stage: str, product: Path) -> dict[str, Any]:
    """What is worth keeping in the record of a stage that has just been done; files that are odd are passed over."""
    if stage == "track":
        told = read_record(product / STAGES["track"].sign)
        return {"verdict": told.get("verdict"), "frames": told.get("frames_kept")}
    if stage == "test":
        metrics = read_record(product / STAGES["test"].sign)
        blocks = [metrics[split] for split in SPLITS if isinstance(metrics.get(split), dict)]
        block: dict[str, Any] = blocks[0] if blocks else {}
        _write_thumbnail(product)
        return {"scores": {name: block.get(name) for name in METRICS}, "frames": block.get("frames")}
    if stage == "export":
        return {"files": sorted(entry.name for entry in product.iterdir())}
    return {}


def read_facts(place: Place, subject: Subject) -> Facts:
    """What the output folder says of a subject now. Raises OSError."""
    facts = Facts()
    for name in subject.stages:
        path = place.record(STAGES[name])
        if path is not None:
            facts.records[name] = read_record(path)
    if facts.left(subject):
        failures = sorted(place.logs.glob("*.failed.json"), key=lambda path: path.stat().st_mtime)
        facts.failure = read_record(failures[-1]) if failures else {}
        if facts.failure.get("stage") in facts.records:  # overcome
            facts.failure = {}
    return facts


def differing(subject: Subject, facts: Facts) -> str | None:
    """What the subject's finished stages were made with and is now wanted otherwise; None when it is the same."""
    for stage, record in facts.records.items():
        for key, wanted in subject.wish(stage).items():
            if key == "flags":
                had = record.get("flags")
                had = had if isinstance(had, dict) else {}
                names = sorted(name for name in {*wanted, *had} if wanted.get(name) != had.get(name))
                if names:
                    told = [f"{name} {_shown(had.get(name))} then, {_shown(wanted.get(name))} now" for name in names]
                    return f"{stage}: {'; '.join(told)}"
            elif record.get(key) != wanted:
                return f"{stage}: {key} {_shown(record.get(key))} then, {_shown(wanted)} now"
    return None


def _shown(value: Any) -> str:
    return "default" if value is None else " ".join(value) if isinstance(value, list) else str(value)


def _write_thumbnail(run: Path) -> None:
    """A frame of a tested run, the median one if it can be, small; nothing where test.py left no pictures."""
    with suppress(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        split = next((name for name in SPLITS if (run / name / "evaluation.json").is_file()), SPLITS[0])
        folder = SplitFolder(run, split)
        chosen = folder.record["selection"]  # short clips have no median
        panels = folder.panels([*chosen["median"], *chosen["best"], *chosen["worst"]][0])
        images = []
        for name in ("ground truth", "prediction"):
            height, width = panels[name].shape[:2]
            shrink = min(1.0, THUMBNAIL_SIDE / max(height, width))
            images.append(resize_area(panels[name], round(width * shrink), round(height * shrink)))
        write_image(run / THUMBNAIL, np.concatenate(images, axis=1), quality=85)
