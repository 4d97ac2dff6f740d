"""The order of things: which subject's next stage is given out, what happens after a failure, what is told."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestration.attempt import clear
from orchestration.facts import Facts, differing, read_facts
from orchestration.index_page import write_index
from orchestration.schedulers import Scheduler
from orchestration.stages import STAGES, Place
from orchestration.subjects import Subject
from orchestration.worker import Outcome, Task
from utils.atomic import WriteError
from utils.parallel import ordered

log = logging.getLogger("fleet")

State = Literal["waiting", "running", "busy", "failed", "finished"]
BUSY_SECONDS = 10.0  # after which a stage that another worker has is looked at again
NEWS_SECONDS = 60.0  # without an event after which the driver says that it lives
PAGE_SECONDS = 3.0  # at most one index.html in so many seconds, and at most a twentieth of the time


@dataclass
class Standing:
    """Where a subject stands in this run. failures: of the present stage. stage: being done, or the one that failed."""

    subject: Subject
    place: Place
    facts: Facts
    state: State = "waiting"
    stage: str | None = None
    failures: int = 0
    error: str = ""


@dataclass
class Pace:
    """Lets something happen at most every `seconds`, and at most a twentieth of the time it takes."""

    seconds: float
    last: float = field(default_factory=lambda: -1e9)
    cost: float = 0.0

    def due(self) -> bool:
        return time.monotonic() - self.last >= max(self.seconds, 20 * self.cost)

    def took(self, begin: float) -> None:
        self.last = time.monotonic()
        self.cost = self.last - begin


def stand(out: Path, subjects: Sequence[Subject]) -> list[Standing]:
    """What the output folder says of every subject; attempts that nobody needs are removed.

    Raises ValueError when finished stages were made with other flags than the list now has.
    """
    def look(index: int) -> Standing:
        place = Place(out, subjects[index].name)
        clear(place)
        standing = Standing(subjects[index], place, read_facts(place, subjects[index]))
        if standing.facts.failure:
            standing.error = str(standing.facts.failure.get("error", ""))
            standing.stage = str(standing.facts.failure.get("stage", ""))
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


class Driver:
    """Brings every subject through its stages. stages: those that may run. retries: of a stage that failed."""

    def __init__(self, standings: list[Standing], scheduler: Scheduler, programs: Path, stages: Sequence[str],
                 retries: int, out: Path) -> None:
        self.standings, self.scheduler, self.programs = standings, scheduler, programs
        self.stages, self.retries, self.out = stages, retries, out
        self.by_name = {standing.subject.name: standing for standing in standings}
        self.begun = time.monotonic()
        self._later: list[tuple[float, Standing]] = []
        self._open = 0
        self._page, self._news = Pace(PAGE_SECONDS), Pace(NEWS_SECONDS)

    def run(self) -> None:
        """Until nothing is left to do. A request to stop is passed on after what runs has been ended."""
        todo = deque(standing for standing in self.standings if self._next_stage(standing) is not None)
        for standing in self.standings:
            if self._next_stage(standing) is None:
                self._settle(standing)
        self._say(f"{len(self.standings)} subjects, {len(todo)} with something to do; {self.scheduler.name}")
        try:
            while todo or self._open or self._later:
                self._give_out(todo)
                if not self._open:
                    time.sleep(1.0)
                    self.tick()
                    continue
                ended = self.scheduler.next()
                if ended is not None:
                    self._take(self.by_name[ended[0].subject.name], ended[0], ended[1])
                self.tick()
        finally:
            self.scheduler.stop()
            self.write_page()

    def tick(self) -> None:
        """Renew the page and say something, if it is time."""
        if self._page.due():
            self.write_page()
        if self._news.due():
            running = ", ".join(f"{task.subject.name}: {task.stage}" for task in self.scheduler.running()[:6])
            self._say(f"at it: {running or 'nothing'}")

    def write_page(self) -> None:
        """index.html as things stand. A disk that refuses is told and does not stop the work."""
        running = {task.subject.name for task in self.scheduler.running()}
        for standing in self.standings:
            if standing.state in ("waiting", "running"):
                standing.state = "running" if standing.subject.name in running else "waiting"
        begin = time.monotonic()
        try:
            write_index(self.out, self.standings, self.scheduler.name)
        except WriteError as error:
            log.warning("WARNING: %s", error)
        self._page.took(begin)

    def _next_stage(self, standing: Standing) -> str | None:
        return standing.facts.next_stage(standing.subject, self.stages)

    def _give_out(self, todo: deque[Standing]) -> None:
        """Tasks for subjects that were put off, then for new ones, as many as can run and a few that wait.

        Subjects that are begun come to their end before many others are begun: less lies about on the disk.
        """
        for entry in [entry for entry in self._later if entry[0] <= time.monotonic()]:
            self._later.remove(entry)
            self._submit(entry[1])
        while todo and self._open < 2 * self.scheduler.width:
            self._submit(todo.popleft())

    def _submit(self, standing: Standing) -> None:
        stage = self._next_stage(standing)
        assert stage is not None, "a subject without anything to do is never given out"
        standing.stage, standing.state = stage, "waiting"
        self._open += 1
        self.scheduler.submit(Task(self.out, standing.subject, stage, self.programs))

    def _take(self, standing: Standing, task: Task, outcome: Outcome) -> None:
        """What follows from the end of a task."""
        self._open -= 1
        name = standing.subject.name
        if outcome.state == "busy":
            if standing.state != "busy":
                self._say(f"{name}: {task.stage} is being done by {outcome.text}")
            standing.state = "busy"
            self._later.append((time.monotonic() + BUSY_SECONDS * random.uniform(0.5, 1.5), standing))
        elif outcome.state == "failed":
            standing.failures += 1
            standing.error = outcome.text
            self._say(f"{name}: {task.stage} failed after {outcome.seconds:.0f} s: {outcome.text}")
            if standing.failures <= self.retries:
                self._submit(standing)
            else:
                standing.state = "failed"
        else:
            standing.failures, standing.error = 0, ""
            standing.facts = read_facts(standing.place, standing.subject)
            following = self._next_stage(standing)
            self._say(f"{name}: {task.stage} done in {outcome.seconds:.0f} s")
            if following is None:
                self._settle(standing)
            elif following == task.stage:  # its record has gone again: somebody removes things
                standing.state, standing.error = "failed", f"{task.stage}: done, but its result is not there any more"
            else:
                self._submit(standing)

    def _settle(self, standing: Standing) -> None:
        """Nothing is left to do for the subject, at least not in this run."""
        done = set(standing.facts.records) == set(standing.subject.stages)
        standing.state, standing.stage = ("finished", None) if done else ("waiting", standing.stage)

    def _say(self, text: str) -> None:
        states = [standing.state for standing in self.standings]
        failed = states.count("failed")
        counts = f"{states.count('finished')}/{len(states)} finished" + (f", {failed} failed" if failed else "")
        log.info("[%s, %s] %s", _clock(time.monotonic() - self.begun), counts, text)
        self._news.took(time.monotonic())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
