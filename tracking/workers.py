"""Processes that work on the pictures of a clip while a GPU, or a training, has this one to itself.

In threads of the same program the refinement, which makes thousands of small calls, would wait for Python's lock, and
so would the threads for each other.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tracking.progress import progress_bar
from utils import parallel

if TYPE_CHECKING:  # the program that starts the processes does not wait for torch
    from flame import Head

FOR_THE_USER = (ValueError, OSError, RuntimeError)  # errors whose message says what to do


class Workers:
    """A context with `count` processes; they start at once, so that their imports are done when work comes, share the
    cores, and end with the context.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.results: list[Any] = []

    def __enter__(self) -> Workers:
        context = get_context("spawn")
        self._pipes, self._processes = list[Connection](), []
        self._busy: dict[Connection, int] = {}
        for _ in range(self.count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, max(1, parallel.usual_threads() // self.count)),
                                      daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join()
            pipe.close()

    def start(self, jobs: Sequence[Callable[[], object]]) -> None:
        """Give jobs that can be pickled, as many as there are processes or fewer, when all earlier ones are done."""
        self.results = [None] * len(jobs)
        for number, (job, pipe) in enumerate(zip(jobs, self._pipes[:len(jobs)], strict=True)):
            pipe.send(job)
            self._busy[pipe] = number

    def done(self, seconds: float) -> bool:
        """Whether all jobs have ended, after so many seconds at most; `results` are then what they returned.

        Raises the first error for the user, or RuntimeError where a process ended without one.
        """
        for pipe in connection.wait(list(self._busy), seconds) if self._busy else []:
            assert isinstance(pipe, Connection)
            number = self._busy.pop(pipe)
            try:
                self.results[number], error = pipe.recv()
            except EOFError:
                process = self._processes[self._pipes.index(pipe)]
                process.join()
                raise RuntimeError(f"a process that worked on the pictures ended before its time (exit code "
                                   f"{process.exitcode}); is there enough memory?") from None
            if error is not None:
                raise error
        return not self._busy


def wait_shown(workers: Workers, name: str, count: int, written: Callable[[], int]) -> None:
    """Wait for all jobs, behind a bar of `count` pictures; written: how many of them are there."""
    with progress_bar(name, count) as bar:
        while not workers.done(0.1):
            bar.update(written() - bar.n)
        bar.update(count - bar.n)


@cache
def head_of_jobs(name: str) -> Head:
    """A head model (its name or file) for the jobs of this process, which load it once."""
    from flame import load_head

    return load_head(name)


def abandoned() -> bool:
    """In a job: whether the program that gave it is no more, killed so that it could not end this process."""
    parent = parent_process()
    return parent is not None and not parent.is_alive()


def shared_out(count: int, parts: int) -> list[range]:
    """0 .. count - 1 as `parts` runs of nearly equal length, none of them empty."""
    bounds = [count * part // parts for part in range(parts + 1)]
    return [range(low, high) for low, high in pairwise(bounds) if low < high]


def _work(theirs: Connection, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one decides
    parallel.limit_threads(threads)
    from tracking import matte_job, publish  # noqa: F401 (the jobs' modules; what they import takes its time)

    while True:
        try:
            job = theirs.recv()
        except (EOFError, OSError):  # nobody is there any more
            os._exit(0)
        try:
            theirs.send((job(), None))
        except FOR_THE_USER as error:
            theirs.send((None, error))
