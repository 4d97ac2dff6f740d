"""Work on many pictures by threads: OpenCV, NumPy's large arrays and reading files do not hold Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = 16  # threads, each with its pictures in memory
_limit = MOST


def ordered(function: Callable[[int], Result], count: int, threads: int | None = None) -> Generator[Result, None, None]:
    """function(0), function(1), ... function(count - 1), in this order; see `in_order`."""
    return in_order(function, range(count), threads)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None, ahead: int | None = None
) -> Generator[Result, None, None]:
    """function(item) of each item, in their order, worked on by threads a little ahead of use.

    items: taken as they are needed, in the thread of the caller. threads: None takes `usual_threads()`. ahead: how many
    items are taken before their results are asked for; None: twice as many as threads. An error is raised where its
    result would come; what was not begun by then, or when the iterator is closed, is left undone.
    """
    threads = threads or usual_threads()
    ahead = 2 * threads if ahead is None else ahead
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def usual_threads() -> int:
    """One thread for each core that this process may use, `MOST` at most, or what `limit_threads` said."""
    return min(len(os.sched_getaffinity(0)), _limit)


def limit_threads(most: int) -> None:
    """So many of `usual_threads` at most in this process, which shares the cores with others."""
    global _limit
    _limit = most
