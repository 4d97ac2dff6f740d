"""The process that makes a growing data set of the kept pictures: identity first, then frame after frame."""

from __future__ import annotations

import os
import queue
import signal
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from flame import load_head
from online.watcher import Box, Ended, Kept
from tracking.continued_fit import ContinuedFit
from tracking.crop import Crop, choose_crop, observe
from tracking.detector import arrays_of_faces
from tracking.landmark_fit import FitSettings
from tracking.landmarks import Track
from tracking.layout import write_records, write_rgba, write_still
from tracking.matte_fallback import Cutter
from tracking.matting import MatteSettings, clip_colours, cut_out, matte_clip
from tracking.mesh_view import MeshView
from tracking.records import Fit, Observations

FEWEST = 8  # further pictures that are fitted together; fewer wait for others
ROOM = 1.15  # the square is so much larger than the first pictures need, as far as the picture reaches: heads move on
HEAD = "open"
LATER = 5  # niceness once the avatar has begun: where processors are few, the camera and the training go first
Guard = AbstractContextManager[Any]  # a lock, of processes or threads


@dataclass(frozen=True)
class TrackerSettings:
    """folder: of the data set. size: side of its pictures. first: pictures from which the identity is fitted."""

    folder: Path
    size: int
    first: int
    matting_model: Path | None = None
    fit: FitSettings = field(default_factory=FitSettings)


@dataclass(frozen=True)
class Grown:
    """The data set has these kept pictures, in the order of its frames. seconds: what the last ones took to fit, cut
    out and write.
    """

    kept: tuple[int, ...]
    seconds: float


class GrowingData:
    """A data set in the trackers' layout that grows by kept pictures."""

    def __init__(self, settings: TrackerSettings, device: torch.device, lock: Guard) -> None:
        """lock: held while the files are not those of one data set."""
        self._settings, self._device, self._lock = settings, device, lock
        self._head = load_head(HEAD)
        self._crop: Crop | None = None
        self._fit: ContinuedFit | None = None
        self._colours: Cutter | None = None
        self.kept: list[int] = []

    def add(self, pictures: list[Kept]) -> None:
        """Fit, cut out and write further pictures; the first call decides identity and square, and needs `first` of
        them. Pictures whose face lies outside the square are left out.
        """
        if self._crop is None:
            self._crop = _roomy(choose_crop(_track(pictures), self._settings.size), pictures[0].rgb.shape[:2])
        crop = self._crop
        pictures = [kept for kept in pictures if _inside(crop, kept)]
        if not pictures:
            return
        observations = observe(_track(pictures), crop)
        fit = self._fitted(observations)
        rgb = [crop.cut(kept.rgb) for kept in pictures]
        view = MeshView(self._head, fit, crop.size)
        inside = crop.inside(*pictures[0].rgb.shape[1::-1])
        how = MatteSettings(self._settings.matting_model)
        if not self.kept:
            self._colours = clip_colours(rgb.__getitem__, len(rgb), view.silhouette, how)
        mattes = matte_clip(rgb.__getitem__, len(rgb), view.silhouette, how, cutter=self._colours)
        found = list(cut_out(rgb.__getitem__, mattes, inside))
        with self._lock:
            self._write(found)
        self.kept += [kept.number for kept in pictures]

    def _fitted(self, observations: Observations) -> Fit:
        if self._fit is None:
            self._fit = ContinuedFit(self._head, observations, self._settings.fit, self._device)
            return self._fit.fit
        return self._fit.more(observations)

    def _write(self, pictures: list[np.ndarray]) -> None:
        assert self._fit is not None and self._crop is not None
        folder, first, fit = self._settings.folder, len(self.kept), self._fit.fit
        folder.mkdir(parents=True, exist_ok=True)
        for index, rgba in enumerate(pictures, start=first):
            write_rgba(folder / "images", index, rgba)
        write_records(folder, fit, self._crop.size, first)
        if first == 0:
            write_still(folder, self._head, HEAD, fit)


def track(settings: TrackerSettings, device: str, recorded: Box, grown: Box, lock: Guard) -> None:
    """Work until `Ended` comes; the last thing that is told is `Ended`, with an error where there was one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's
    try:
        grown.put(_track_all(settings, torch.device(device), recorded, grown, lock))
    except (ValueError, OSError, RuntimeError) as error:
        grown.put(Ended(str(error)))


def _track_all(settings: TrackerSettings, device: torch.device, recorded: Box, grown: Box,
               lock: Guard) -> Ended:
    data, waiting = GrowingData(settings, device, lock), list[Kept]()
    ended: Ended | None = None
    while ended is None:
        waiting, ended = _received(recorded, waiting)
        begun = bool(data.kept)
        if len(waiting) < (FEWEST if begun else settings.first) and not (ended is not None and begun and waiting):
            continue
        started = perf_counter()
        data.add(waiting)
        waiting = []
        if not begun and hasattr(os, "nice"):
            os.nice(LATER)
        grown.put(Grown(tuple(data.kept), perf_counter() - started))
    if ended.error:
        return ended
    if not data.kept:
        return Ended(f"the recording ended with {len(waiting)} usable pictures, before the avatar could begin: wanted "
                     f"{settings.first} (--first_frames)")
    return Ended()


def _received(recorded: Box, waiting: list[Kept]) -> tuple[list[Kept], Ended | None]:
    """What waited and all that has come; how the recording ended, if it has."""
    item = recorded.get()
    while True:
        if isinstance(item, Ended):
            return waiting, item
        waiting = [*waiting, item]
        try:
            item = recorded.get_nowait()
        except queue.Empty:
            return waiting, None


def _track(pictures: list[Kept]) -> Track:
    height, width = pictures[0].rgb.shape[:2]
    return Track(
        index=np.array([kept.number for kept in pictures], np.int64), time=np.array([kept.time for kept in pictures]),
        **arrays_of_faces([kept.face for kept in pictures]), others=np.zeros(len(pictures), np.int64),
        width=width, height=height)


def _roomy(crop: Crop, shape: tuple[int, ...]) -> Crop:
    """The square with room around it, within the picture where it was within it."""
    height, width = shape
    side = max(crop.side, min(round(ROOM * crop.side), height, width))
    middle = crop.left + crop.side / 2, crop.top + crop.side / 2
    left, top = (round(min(max(at - side / 2, 0), max(extent - side, 0))) if side <= extent else round(at - side / 2)
                 for at, extent in zip(middle, (width, height), strict=True))
    return replace(crop, left=left, top=top, side=side)


def _inside(crop: Crop, kept: Kept) -> bool:
    points = crop.points(kept.face.points[:, :2])
    return bool((points >= 0).all() and (points <= crop.size).all())


def forget(inbox: Box) -> None:
    """Empty a queue whose contents nobody wants any more, so that its process can end."""
    with suppress(queue.Empty, OSError, ValueError):
        while True:
            inbox.get_nowait()
