"""Progress bars that show that the program lives."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

from tqdm import tqdm

TICK = 0.8  # seconds between two looks at the clock

Item = TypeVar("Item")


@contextmanager
def progress_bar(name: str, total: int | None, unit: str = "picture", file: TextIO | None = None) -> Iterator[tqdm]:
    """A bar whose clock moves every second, however long a step takes. file: None is standard error."""
    over = threading.Event()
    with tqdm(total=total, desc=name, unit=unit, file=file) as bar:

        def tick() -> None:
            while not over.wait(TICK):
                bar.refresh()

        clock = threading.Thread(target=tick, name="clock of a bar", daemon=True)
        clock.start()
        try:
            yield bar
        finally:
            over.set()
            clock.join()


def counted(items: Iterable[Item], name: str, total: int, file: TextIO | None = None) -> Iterator[Item]:
    """The items, each one a step of a `progress_bar`."""
    with progress_bar(name, total, file=file) as bar:
        for item in items:
            yield item
            bar.update()
