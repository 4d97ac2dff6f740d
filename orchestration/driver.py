"""The order of things: which subject's next stage is given out, what happens after a failure, what is told."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestration.facts import read_facts
from orchestration.index_page import write_index
from orchestration.schedulers import Scheduler
from orchestration.standing import Standing, State, progress_of
from orchestration.worker import Outcome, Task
from utils.atomic import WriteError

log = logging.getLogger("fleet")

BUSY_SECONDS = 10.0  # after which a stage that another worker has is looked at again
NEWS_SECONDS = 60.0  # without an event after which the driver says that it lives
PAGE_SECONDS = 3.0  # at most one page in so many seconds
TOLD = 6  # running subjects that a line of news names


@dataclass
class Pace:
    """Lets something happen at most every `seconds`, and for at most a twentieth of the time."""

    seconds: float
    last: float = field(default_factory=lambda: -1e9)
    cost: float = 0.0

    def due(self) -> bool:
        return time.monotonic() - self.last >= max(self.seconds, 20 * self.cost)

    def took(self, begin: float) -> None:
        self.last = time.monotonic()
        self.cost = self.last - begin


class Driver:
    """Brings every subject through its stages.

    stages: those that may run. retries: of a stage that failed. shows: whether to keep index.html up to date; one job
    of many that each know a part of the list must not.
    """

    def __init__(self, out: Path, standings: list[Standing], scheduler: Scheduler, programs: Path,
                 stages: Sequence[str], retries: int, shows: bool) -> None:
        self.out, self.standings, self.scheduler, self.programs = out, standings, scheduler, programs
        self.stages, self.retries, self.shows = stages, retries, shows
        self.begun = time.monotonic()
        self._active: dict[str, Standing] = {}  # given to the scheduler
        self._later: list[tuple[float, Standing]] = []
        self._states = Counter(standing.state for standing in standings)
        self._page, self._news = Pace(PAGE_SECONDS), Pace(NEWS_SECONDS)

    def run(self) -> None:
        """Until nothing is left to do. What interrupts it passes on when the scheduler has ended what runs."""
        todo = deque(standing for standing in self.standings if self._next_stage(standing) is not None)
        for standing in todo:
            self._set(standing, "waiting")
        self._say(f"{len(self.standings)} subjects, {len(todo)} with something to do; {self.scheduler.name}")
        try:
            while todo or self._active or self._later:
                self._give_out(todo)
                if self._active:
                    ended = self.scheduler.next()
                    if ended is not None:
                        self._take(self._active.pop(ended[0].subject.name), ended[0], ended[1])
                else:
                    time.sleep(1.0)
                self.tick()
        finally:
            self.scheduler.stop()
            self.write_page()

    def tick(self) -> None:
        """Renew the page and say something, if it is time."""
        if self._page.due():
            self.write_page()
        if self._news.due():
            running = [self._active[task.subject.name] for task in self.scheduler.running()]
            told = [" ".join(f"{standing.subject.name}: {standing.stage} {progress_of(standing)}".split())
                    for standing in running[:TOLD]]
            more = f" and {len(running) - TOLD} more" if len(running) > TOLD else ""
            self._say(f"at it: {', '.join(told) or 'nothing'}{more}")

    def write_page(self) -> None:
        """index.html as things stand. A disk that refuses is told and does not stop the work."""
        running = {task.subject.name for task in self.scheduler.running()}
        for name, standing in self._active.items():
            self._set(standing, "running" if name in running else "waiting")
        begin = time.monotonic()
        try:
            if self.shows:
                write_index(self.out, self.standings, time.monotonic() - self.begun)
        except WriteError as error:
            log.warning("WARNING: %s", error)
        self._page.took(begin)

    def _next_stage(self, standing: Standing) -> str | None:
        return standing.facts.next_stage(standing.subject, self.stages)

    def _set(self, standing: Standing, state: State) -> None:
        self._states[standing.state] -= 1
        self._states[state] += 1
        standing.state = state

    def _give_out(self, todo: deque[Standing]) -> None:
        """Tasks for subjects that were put off, then for new ones, as many as the scheduler wants to hold.

        Subjects that are begun come to their end before many others are begun: less lies about on the disk.
        """
        for entry in [entry for entry in self._later if entry[0] <= time.monotonic()]:
            self._later.remove(entry)
            self._submit(entry[1])
        while todo and len(self._active) < self.scheduler.room:
            self._submit(todo.popleft())

    def _submit(self, standing: Standing) -> None:
        stage = self._next_stage(standing)
        assert stage is not None, "a subject without anything to do is never given out"
        standing.stage = stage
        self._set(standing, "waiting")
        self._active[standing.subject.name] = standing
        self.scheduler.submit(Task(self.out, standing.subject, stage, self.programs))

    def _take(self, standing: Standing, task: Task, outcome: Outcome) -> None:
        """What follows from the end of a task."""
        name = standing.subject.name
        if outcome.state == "busy":
            if not standing.error:
                self._say(f"{name}: {task.stage} is being done by {outcome.text}")
            standing.error = f"being done by {outcome.text}"
            self._set(standing, "busy")
            self._later.append((time.monotonic() + BUSY_SECONDS * random.uniform(0.5, 1.5), standing))
        elif outcome.state == "failed":
            standing.failures += 1
            standing.error = outcome.text
            again = standing.failures <= self.retries
            self._set(standing, "waiting" if again else "failed")
            self._say(f"{name}: {task.stage} failed after {outcome.seconds:.0f} s"
                      f"{', is tried again' if again else ''}: {outcome.text}")
            if again:
                self._submit(standing)
        else:
            self._go_on(standing, task, outcome)

    def _go_on(self, standing: Standing, task: Task, outcome: Outcome) -> None:
        """The next stage of a subject, or its end."""
        standing.failures, standing.error = 0, ""
        standing.facts = read_facts(standing.place, standing.subject)
        following = self._next_stage(standing)
        if following == task.stage:  # somebody removes things
            standing.error = f"{task.stage} was done, but its result is not there any more"
            self._set(standing, "failed")
        elif following is None:
            standing.stage = None
            self._set(standing, "waiting" if standing.facts.left(standing.subject) else "finished")
        self._say(f"{standing.subject.name}: {task.stage} done in {outcome.seconds:.0f} s")
        if following not in (None, task.stage):
            self._submit(standing)

    def _say(self, text: str) -> None:
        failed = self._states["failed"]
        counts = f"{self._states['finished']}/{len(self.standings)} finished" + (f", {failed} failed" if failed else "")
        log.info("[%s, %s] %s", _clock(time.monotonic() - self.begun), counts, text)
        self._news.took(time.monotonic())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
