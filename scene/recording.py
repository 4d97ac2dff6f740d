"""Which picture of a data set shows which moment, by which camera, and how several cameras are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene.frame import Frame

IndexArray = NDArray[np.int64]
PARTS = ("novel_view", "novel_expression", "both")
LEAST_CAMERAS = 4  # so many, and one is held out if nobody says: three that see a head all around are needed to train
AUTO, NONE = "auto", "none"


@dataclass(frozen=True, eq=False)
class Recording:
    """N pictures of M moments by cameras with these names.

    time [N]: number of the moment, 0 .. M - 1, every one of them in use. view [N]: number of the camera.
    """

    time: IndexArray
    view: IndexArray
    cameras: tuple[str, ...] = ("",)

    @staticmethod
    def of(frames: Sequence[Frame]) -> Recording:
        """That of frames; cameras in the order in which they first appear. ValueError for two pictures of one."""
        names = tuple(dict.fromkeys(frame.view for frame in frames))
        seen: dict[tuple[int, str], Frame] = {}
        for frame in frames:
            other = seen.setdefault((frame.time, frame.view), frame)
            if other is not frame:
                raise ValueError(f"{frame.image_path} and {other.image_path}: both are of moment {frame.time} by "
                                 f"camera '{frame.view}'")
        time = np.unique([frame.time for frame in frames], return_inverse=True)[1]
        return Recording(np.asarray(time, np.int64), np.array([names.index(frame.view) for frame in frames], np.int64),
                         names)

    @staticmethod
    def single(count: int) -> Recording:
        """One camera, a moment a picture."""
        return Recording(np.arange(count, dtype=np.int64), np.zeros(count, np.int64))

    def __len__(self) -> int:
        return len(self.time)

    @property
    def moments(self) -> int:
        """M."""
        return int(self.time.max()) + 1 if len(self.time) else 0

    @property
    def several(self) -> bool:
        """Whether there is more than one camera."""
        return len(self.cameras) > 1

    @property
    def main_camera(self) -> str:
        """The name of the camera with the most pictures."""
        return self.cameras[self._main]

    @property
    def _main(self) -> int:
        return int(np.bincount(self.view, minlength=len(self.cameras)).argmax())

    @property
    def reference(self) -> IndexArray:
        """[M]: the picture of each moment in whose camera the moment's pose is told.

        That of `main_camera`, where it has one of the moment; else the moment's first.
        """
        order = np.lexsort((np.arange(len(self)), self.view != self._main, self.time))
        first = np.flatnonzero(np.diff(self.time[order], prepend=-1))
        return np.asarray(order[first], np.int64)

    def of_camera(self, number: int) -> IndexArray:
        """The pictures of one camera, in order of time."""
        mine = np.flatnonzero(self.view == number)
        return np.asarray(mine[np.argsort(self.time[mine], kind="stable")], np.int64)

    def held_out_cameras(self, names: Sequence[str]) -> set[int]:
        """Numbers of the cameras that --test_cameras `names` holds out.

        "auto": of `LEAST_CAMERAS` and more the second in order of name, of fewer none; "none": none. ValueError for a
        name that there is not, and when no camera is left to train with.
        """
        if list(names) == [NONE] or (not self.several and list(names) == [AUTO]):
            return set()
        if list(names) == [AUTO]:
            names = sorted(self.cameras)[1:2] if len(self.cameras) >= LEAST_CAMERAS else []
        unknown = sorted(set(names) - set(self.cameras))
        if unknown:
            raise ValueError(f"--test_cameras {unknown[0]}: no such camera; there are "
                             f"{', '.join(self.cameras) if self.several else 'no names, for there is only one'}")
        if set(names) >= set(self.cameras):
            raise ValueError(f"--test_cameras: no camera left to train with: all {len(self.cameras)} are held out")
        return {self.cameras.index(name) for name in names}

    def parts(self, train: IndexArray, frames: Sequence[int] | IndexArray) -> dict[str, list[int]]:
        """Those of `frames` that training did not see, by what is new in them; parts without a frame are left out.

        novel_view: a moment that trained, by a camera that did not. novel_expression: a moment that did not train, by a
        camera that did. both: neither did. Empty with one camera, of which nothing but the moment can be new.
        """
        if not self.several:
            return {}
        index = np.setdiff1d(np.asarray(frames, np.int64), train)
        moment = np.isin(self.time[index], self.time[train])
        camera = np.isin(self.view[index], self.view[train])
        masks = (moment & ~camera, ~moment & camera, ~moment & ~camera)
        return {name: index[mask].tolist() for name, mask in zip(PARTS, masks, strict=True) if mask.any()}

    def by_camera(self, frames: Sequence[int] | IndexArray) -> dict[str, list[int]]:
        """`frames` by the name of their camera; empty with one camera."""
        index = np.asarray(frames, np.int64)
        found = {name: index[self.view[index] == number].tolist() for number, name in enumerate(self.cameras)}
        return {name: mine for name, mine in found.items() if mine} if self.several else {}
