"""What is common to all footage: a picture with its time, and which pictures of a clip are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

ByteImage = NDArray[np.uint8]

SAME_PICTURE = 2  # levels of 255: decoders round a repeated picture differently by no more; camera noise is larger
KEPT_BYTES = 2**30  # of pictures in memory: 45 seconds of 512 x 512 at 30 a second, 5 of full HD
ON_TIME = 1e-3    # seconds: time stamps are rounded, to 1/1000 s in some containers

PHOTO = ("{path}: a photo; an avatar is learnt from a video. Film 10 seconds or more of the moving, speaking face, or "
         "give a folder of images in order")


class FootageError(ValueError):
    """The footage cannot serve; the message names it, what was wanted, what arrived, and what to do."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a clip, upright. index: its number in the clip, from 0. time: seconds from the first picture.

    rgb uint8 [H,W,3]; alpha uint8 [H,W] where the footage has an alpha channel, else None.
    """

    index: int
    time: float
    rgb: ByteImage
    alpha: ByteImage | None = None


@dataclass(frozen=True)
class Dropped:
    """A picture that is left out: its number and time in the clip, and why in a few words."""

    index: int
    time: float
    reason: str


class Footage(Protocol):
    """A clip that can be read from its start any number of times.

    notes: sentences for the user about what is unusual, complete once the clip was read to its end.
    expected: about how many pictures it has, for a progress bar; None where that is not known.
    """

    @property
    def path(self) -> Path: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def expected(self) -> int | None: ...

    def pictures(self, wanted: Wanted) -> Iterator[Picture]:
        """The pictures that `wanted` accepts, in order. Raises FootageError when not one picture can be read."""


class OfFootage:
    """What footage that is made of other footage has from it: where it lies, notes, number of pictures."""

    def __init__(self, footage: Footage) -> None:
        self._footage = footage

    @property
    def path(self) -> Path:
        return self._footage.path

    @property
    def notes(self) -> list[str]:
        return self._footage.notes

    @property
    def expected(self) -> int | None:
        return self._footage.expected


class Kept(OfFootage):
    """Footage whose pictures stay in memory when they are read for the first time, so that a clip of usual length is
    decoded once; of one that takes more than `limit` bytes none is kept.
    """

    def __init__(self, footage: Footage, limit: int = KEPT_BYTES) -> None:
        super().__init__(footage)
        self._room = limit
        self._pictures: dict[int, Picture] = {}

    def pictures(self, wanted: Wanted) -> Iterator[Picture]:
        """See `Footage`. Pictures listed by number come from memory if all of them are there."""
        if isinstance(wanted, Listed) and wanted.indices <= self._pictures.keys():
            yield from (self._pictures[index] for index in sorted(wanted.indices))
            return
        for picture in self._footage.pictures(wanted):
            if self._room > 0 and picture.index not in self._pictures:
                self._keep(picture)
            yield picture

    def _keep(self, picture: Picture) -> None:
        self._room -= picture.rgb.nbytes + (0 if picture.alpha is None else picture.alpha.nbytes)
        self._pictures[picture.index] = picture
        if self._room <= 0:
            self._pictures.clear()

    def forget(self) -> None:
        """Free the memory."""
        self._pictures.clear()


class Wanted(Protocol):
    """Decides by number and time whether a picture needs to be decoded to pixels."""

    def accepts(self, index: int, time: float) -> bool:
        """Whether the picture is wanted; asked once for each picture, in order."""

    def is_past(self, time: float) -> bool:
        """Whether no later picture is wanted."""


@dataclass(frozen=True)
class Listed:
    """Wants the pictures with these numbers."""

    indices: frozenset[int]

    def accepts(self, index: int, time: float) -> bool:
        return index in self.indices

    def is_past(self, time: float) -> bool:
        return False


@dataclass
class Span:
    """Wants the pictures from `start` to `end` (seconds; end None: all), at most `fps` a second (None: all).

    Time stamps decide, so a variable frame rate is thinned to an even one, as far as it has pictures.

    Raises ValueError naming the flag whose value makes no sense.
    """

    start: float = 0.0
    end: float | None = None
    fps: float | None = None
    _next: float = field(default=-np.inf, repr=False)

    def __post_init__(self) -> None:
        if self.start < 0:
            raise ValueError(f"--start: seconds from the first picture, 0 or more, expected; got {self.start}")
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"--end: seconds after --start ({self.start}) expected, got {self.end}")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"--fps: a positive number of pictures a second expected, got {self.fps}")

    def accepts(self, index: int, time: float) -> bool:
        if time < self.start - ON_TIME or self.is_past(time) or time < self._next - ON_TIME:
            return False
        if self.fps is not None:
            # The next tick of an even clock, not time + 1/fps: lateness must not add up.
            self._next = self.start + (np.floor((time - self.start + ON_TIME) * self.fps) + 1) / self.fps
        return True

    def is_past(self, time: float) -> bool:
        return self.end is not None and time >= self.end - ON_TIME


def without_repeats(pictures: Iterator[Picture], dropped: list[Dropped]) -> Iterator[Picture]:
    """Leave out pictures that repeat the one before (screen recordings, converted frame rates), and note them."""
    last: Picture | None = None
    for picture in pictures:
        if last is not None and cv2.norm(picture.rgb, last.rgb, cv2.NORM_INF) <= SAME_PICTURE:
            dropped.append(Dropped(picture.index, picture.time, f"repeats picture {last.index}"))
            continue
        last = picture
        yield picture
