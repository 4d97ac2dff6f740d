"""What the stages of a run of track.py share: settings, footage, folders, and what they found out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from arguments.track_settings import TrackSettings
from tracking.crop import Crop
from tracking.detector import CloseDetector
from tracking.footage import Dropped, Footage, Kept
from tracking.landmarks import Track
from tracking.records import Fit, Observations
from tracking.threads import own_threads_only
from tracking.verdict import Verdict
from tracking.workspace import PictureStore, Shelf

if TYPE_CHECKING:  # the first stage does without torch, whose import takes seconds
    import torch

    from flame import Head

Finish = Callable[[Path], None]
"""Called with the folder of the complete data set before it takes its place: writes more into it."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run, for the user: the folder, kept and left-out pictures, the verdict, seconds per stage.

    preview: writes preview and plot if they were left for later; can be called in another process.
    """

    folder: Path
    frames: int
    dropped: int
    verdict: Verdict
    seconds: dict[str, float]
    preview: Callable[[], None] | None = None


class Means(NamedTuple):
    """What all stages after the first need besides the footage."""

    device: torch.device
    head: Head

    def at_hand(self) -> Future[Means]:
        """For a `Run` that need not wait for them."""
        means = Future[Means]()
        means.set_result(self)
        return means


@dataclass(eq=False)
class Run:
    """One run of track.py: what its stages share.

    means: may still be on their way while the first stage is at work. dropped, notes, clock: what that stage says about
    the footage; clock: number and time of every picture that was looked at. detector: None takes MediaPipe's. kept: the
    footage, whose pictures stay in memory if they fit.
    """

    settings: TrackSettings
    means: Future[Means]
    footage: Footage
    workspace: Shelf
    detector: CloseDetector | None = None
    clock: list[tuple[int, float]] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    kept: Kept = field(init=False)

    def __post_init__(self) -> None:
        self.kept = Kept(self.footage)

    @property
    def device(self) -> torch.device:
        """Waited for; raises what kept it from being there. So does `head`."""
        return self.means.result().device

    @property
    def head(self) -> Head:
        return self.means.result().head

    @contextmanager
    def stage(self, name: str, alone: Callable[[], AbstractContextManager[None]] = own_threads_only) -> Iterator[None]:
        """Take the time of a stage, which shares its pictures or frames out to threads itself."""
        begin = time.perf_counter()
        with alone():
            yield
        self.seconds[name] = round(time.perf_counter() - begin, 2)


@dataclass(frozen=True)
class Pictures:
    """The crops on disk: rgb; given, the footage's own alpha, or None; full, the crops at the footage's resolution."""

    rgb: PictureStore
    given: PictureStore | None
    full: PictureStore | None
    sharpness: np.ndarray


@dataclass(frozen=True, eq=False)
class Found:
    """What all stages but the last found out about the pictures of one camera. cut_out: RGBA [S,S,4], the neck whole.
    """

    track: Track
    crop: Crop
    observations: Observations
    fit: Fit
    pictures: Pictures
    cut_out: PictureStore
