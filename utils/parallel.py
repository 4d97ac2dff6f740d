"""Work on many pictures by threads: OpenCV, NumPy's large arrays and reading files do not hold Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
MOST = 16  # threads, each with its pictures in memory


def ordered(function: Callable[[int], Result], count: int, threads: int | None = None) -> Generator[Result, None, None]:
    """function(0), function(1), ... function(count - 1), in this order, worked on by threads a little ahead of use.

    threads: None takes one for each core, `MOST` at most. An error is raised where its result would come; what was not
    begun by then, or when the iterator is closed, is left undone.
    """
    threads = threads or min(os.cpu_count() or 1, MOST)
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for index in range(count):
            waiting.append(pool.submit(function, index))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
