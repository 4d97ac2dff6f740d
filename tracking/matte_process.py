"""The mattes of a clip in a process of their own, while a GPU refines the fit.

In threads of the same program the refinement, which makes thousands of small calls, would wait for Python's lock.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from types import TracebackType

import numpy as np

from flame import load_head
from tracking.footage import ByteImage
from tracking.matting import MatteSettings, matte_clip
from tracking.mesh_view import LARGEST, MeshView
from tracking.records import Fit
from tracking.threads import own_threads_only
from tracking.workspace import PictureStore

_given_up: Event | None = None  # of the process's own, set when nobody waits for it any more


@dataclass(frozen=True, eq=False)
class MatteJob:
    """Cut out the head in the pictures `rgb` [S,S,3] into `alpha` [S,S], the neck whole: see `cut_at_neck`.

    head: its name or file. fit: a rough one will do. inside [S,S]: 255 where the footage reaches.
    """

    head: str
    fit: Fit
    rgb: PictureStore
    alpha: PictureStore
    inside: ByteImage
    settings: MatteSettings

    def __call__(self) -> None:
        size = len(self.inside)
        view = MeshView(load_head(self.head), self.fit, size, min(size, LARGEST))
        with own_threads_only():
            mattes = matte_clip(self.rgb.read, len(self.fit), view.silhouette, self.settings, cut_neck=False)
            for index, matte in enumerate(mattes):
                if _given_up is not None and _given_up.is_set():
                    return
                self.alpha.write(index, np.minimum(matte, self.inside))
        self.alpha.finish()


class MatteProcess:
    """A context with a process that does one job beside this one, and is given up at the end."""

    def __enter__(self) -> MatteProcess:
        context = get_context("spawn")
        self._given_up = context.Event()
        self._pool = ProcessPoolExecutor(1, context, _begin, (self._given_up,))
        self._pool.submit(_nothing)  # it starts now, and imports what it needs
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._given_up.set()
        self._pool.shutdown(cancel_futures=True)

    def start(self, job: Callable[[], None]) -> Future[None]:
        return self._pool.submit(job)


def _begin(given_up: Event) -> None:
    global _given_up  # a process's initialiser has no other way to leave something for its jobs
    _given_up = given_up
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the other one decides


def _nothing() -> None:
    pass
