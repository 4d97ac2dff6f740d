"""The mattes of a clip in a process of their own, while a GPU refines the fit.

In threads of the same program the refinement, which makes thousands of small calls, would wait for Python's lock.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from types import TracebackType

from flame import load_head
from tracking.footage import ByteImage
from tracking.matting import MatteSettings, cut_out, matte_clip
from tracking.mesh_view import LARGEST, MeshView
from tracking.records import Fit
from tracking.threads import own_threads_only
from tracking.workspace import PictureStore

FOR_THE_USER = (ValueError, OSError, RuntimeError)  # errors whose message says what to do


@dataclass(frozen=True, eq=False)
class MatteJob:
    """Cut out the head in the pictures `rgb` [S,S,3] into `found` [S,S,4], the neck whole: see `cut_at_neck`.

    head: its name or file. fit: a rough one will do. inside [S,S]: 255 where the footage reaches.
    """

    head: str
    fit: Fit
    rgb: PictureStore
    found: PictureStore
    inside: ByteImage
    settings: MatteSettings

    def __call__(self) -> None:
        size, parent = len(self.inside), parent_process()
        view = MeshView(load_head(self.head), self.fit, size, min(size, LARGEST))
        with own_threads_only():
            mattes = matte_clip(self.rgb.read, len(self.fit), view.silhouette, self.settings, cut_neck=False)
            for index, picture in enumerate(cut_out(self.rgb.read, mattes, self.inside)):
                if parent is not None and not parent.is_alive():  # killed, so that it could not end this process
                    return
                self.found.write(index, picture)
        self.found.finish()


class JobProcess:
    """A context with a process that does one job beside this one; it starts at once, and ends with the context."""

    def __enter__(self) -> JobProcess:
        context = get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()
        self._ours.close()

    def start(self, job: Callable[[], None]) -> None:
        """Begin with what can be pickled."""
        self._ours.send(job)

    def done(self, seconds: float) -> bool:
        """Whether it has ended, after so many seconds at most. Raises its error for the user, or RuntimeError if the
        process ended without one.
        """
        if not self._ours.poll(seconds):
            return False
        try:
            error = self._ours.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"the process that cuts out the head ended before its time (exit code {self._process.exitcode}); "
                "is there enough memory?") from None
        if error is not None:
            raise error
        return True


def _work(theirs: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both processes; the other one decides
    try:
        theirs.recv()()
        theirs.send(None)
    except EOFError:  # nobody is there any more
        pass
    except FOR_THE_USER as error:
        theirs.send(error)
