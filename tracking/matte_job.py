"""The mattes of a part of a clip, for a process of their own (tracking/workers.py)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

from tracking.footage import ByteImage
from tracking.matting import MatteSettings, clip_colours, cut_out, matte_clip
from tracking.mesh_view import LARGEST, MeshView
from tracking.records import Fit
from tracking.threads import own_threads_only
from tracking.workers import abandoned, head_of_jobs
from tracking.workspace import PictureStore

RUN_IN = 16  # pictures before a part, since each matte leans on the one before (tracking/matting.py)


@dataclass(frozen=True, eq=False)
class MatteJob:
    """Cut out the head in the pictures `rgb` [S,S,3] numbered `frames` into `found` [S,S,4], the neck whole: see
    `cut_at_neck`. What is to be learnt of the clip is learnt of all of it.

    head: its name or file. fit: a rough one will do. inside [S,S]: 255 where the footage reaches.
    """

    head: str
    fit: Fit
    rgb: PictureStore
    found: PictureStore
    inside: ByteImage
    settings: MatteSettings
    frames: range

    def __call__(self) -> None:
        size = len(self.inside)
        view = MeshView(head_of_jobs(self.head), self.fit, size, min(size, LARGEST))
        first = max(0, self.frames.start - RUN_IN)
        with own_threads_only():
            cutter = clip_colours(self.rgb.read, len(self.fit), view.silhouette, self.settings)
            mattes = matte_clip(
                lambda index: self.rgb.read(first + index), self.frames.stop - first,
                lambda index: view.silhouette(first + index), self.settings, None, cutter, False)
            wanted = islice(mattes, self.frames.start - first, None)
            pictures = cut_out(lambda index: self.rgb.read(self.frames[index]), wanted, self.inside)
            for index, picture in zip(self.frames, pictures, strict=True):
                if abandoned():
                    return
                self.found.write(index, picture)
