"""Where each subject stands: what its folders say, and what this run makes of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestration.attempt import clear, stage_at_work
from orchestration.facts import Facts, differing, read_facts
from orchestration.stages import STAGES, Place
from orchestration.subjects import Subject
from utils.parallel import ordered

State = Literal["waiting", "running", "busy", "failed", "finished"]


@dataclass
class Standing:
    """Where a subject stands. stage: the one that is done now, or failed. failures: of it, in this run.

    state: "busy" means that another worker than this run's has it.
    """

    subject: Subject
    place: Place
    facts: Facts
    state: State = "waiting"
    stage: str | None = None
    failures: int = 0
    error: str = ""


def stand(out: Path, subjects: Sequence[Subject]) -> list[Standing]:
    """What the output folder says of every subject; attempts that nobody needs are removed.

    Raises ValueError when finished stages were made with other flags than the list now has.
    """
    def look(index: int) -> Standing:
        place = Place(out, subjects[index].name)
        clear(place)
        standing = Standing(subjects[index], place, read_facts(place, subjects[index]))
        if not standing.facts.left(subjects[index]):
            standing.state = "finished"
        elif (at_work := stage_at_work(place)) is not None:
            standing.state, standing.stage = "running", at_work
        elif standing.facts.failure:
            standing.state, standing.stage = "failed", str(standing.facts.failure.get("stage"))
            standing.error = str(standing.facts.failure.get("error"))
        return standing

    standings = list(ordered(look, len(subjects), threads=16))  # network disks answer many at a time
    wrong = [f"{standing.subject.name}: {difference}" for standing in standings
             if (difference := differing(standing.subject, standing.facts)) is not None]
    if wrong:
        more = f"\n  and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{out}: finished with other flags than you give now:\n  " + "\n  ".join(wrong[:5]) + more +
                         "\nGive the same flags, choose another --output, or remove these subjects' folders from "
                         f"{', '.join(sorted(stage.product for stage in STAGES.values()))}")
    return standings


def progress_of(standing: Standing) -> str:
    """How far the program that runs for a subject has come, by the bar that it prints last; empty where there is none.

    Read from the newest log, wherever the program runs.
    """
    with suppress(OSError, ValueError):
        log = max(standing.place.logs.glob(f"{standing.stage}-*.txt"), key=lambda path: path.stat().st_mtime)
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 2000))
            bars = re.findall(r"([A-Za-z][\w ]*):\s+(\d+)%\|", file.read().decode("utf-8", "replace"))
        return f"{bars[-1][0]} {bars[-1][1]} %" if bars else ""
    return ""
