"""Where tasks run: the interface of a scheduler, and the one that needs nothing."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from orchestration.worker import Outcome, Task, Tick, perform


class Scheduler(Protocol):
    """Takes tasks and gives back what came of them, in any order.

    room: how many tasks it wants to hold, running and waiting. name: for the user.
    """

    name: str
    room: int

    def submit(self, task: Task) -> None:
        """Take a task; it runs when there is room."""

    def next(self) -> tuple[Task, Outcome] | None:
        """The next task that has ended; None after some seconds in which none has. Never called without tasks."""

    def running(self) -> list[Task]:
        """Tasks that have begun, as far as is known."""

    def stop(self) -> None:
        """End what runs, giving it the time to save itself. Safe to call at any time."""


class LocalScheduler:
    """One task after another, in this process. tick: called every few seconds while one runs."""

    name, room = "one after another", 1

    def __init__(self, tick: Tick | None = None) -> None:
        self.tick = tick
        self._waiting: deque[Task] = deque()
        self._running: list[Task] = []

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self) -> tuple[Task, Outcome]:
        task = self._waiting.popleft()
        self._running = [task]
        try:
            return task, perform(task, tick=self.tick)
        finally:
            self._running = []

    def running(self) -> list[Task]:
        return self._running

    def stop(self) -> None:
        """Nothing runs between two calls of `next`; what interrupts a call ends the task."""
