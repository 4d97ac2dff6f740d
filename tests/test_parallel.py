"""Work by threads that comes back in order."""

from __future__ import annotations

import threading
import time

import pytest

from utils import parallel
from utils.parallel import MOST, ordered


@pytest.mark.parametrize("threads", [1, 3, None])
def test_results_come_in_order(threads: int | None) -> None:
    def late(index: int) -> int:
        time.sleep(0.002 * ((7 * index) % 5))  # the first are not the first to be done
        return index * index

    assert list(ordered(late, 40, threads)) == [i * i for i in range(40)]
    assert list(ordered(late, 0, threads)) == []


def test_several_are_worked_on_at_once() -> None:
    together = threading.Barrier(3, timeout=20)  # passed only where three wait at it

    def wait(index: int) -> int:
        together.wait()
        return index

    assert list(ordered(wait, 6, 3)) == list(range(6))


def test_work_runs_ahead_only_a_little() -> None:
    begun: list[int] = []
    results = ordered(begun.append, 1000, 2)
    for _ in range(10):
        next(results)
    time.sleep(0.05)
    assert 10 <= len(begun) <= 10 + 2 * 2
    results.close()
    time.sleep(0.05)
    assert len(begun) <= 10 + 2 * 2 + 1


def test_an_error_comes_at_its_place() -> None:
    def fail(index: int) -> int:
        if index == 3:
            raise ValueError("picture 3")
        return index

    results, got = ordered(fail, 100, 4), []
    with pytest.raises(ValueError, match="picture 3"):
        for result in results:
            got.append(result)
    assert got == [0, 1, 2]


def test_threads_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(500)))
    names = set(ordered(lambda _: threading.current_thread().name, 300))
    assert 1 <= len(names) <= MOST == parallel.usual_threads()
    monkeypatch.setattr(parallel, "_limit", MOST)  # put back afterwards
    parallel.limit_threads(3)
    assert parallel.usual_threads() == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {5})
    assert parallel.usual_threads() == 1
