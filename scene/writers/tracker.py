"""The inverse of scene/readers/tracker.py for one camera: records as metrical-tracker saves them, RGBA pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from flame import Head
from scene.readers.source import Source
from scene.writers.common import refuse_neck, refuse_several_views, without_offset, write_head_name, write_pictures
from utils.atomic import write_with
from utils.tracker_files import tracker_record


def write_tracker(folder: Path, source: Source, head: Head) -> None:
    """Write `source`, which is complete, into `folder`, layout insta.

    Raises utils.atomic.WriteError, OSError, and ValueError for several cameras, for a neck (the tracker's head has none
    that moves), or naming a picture.
    """
    refuse_several_views(source, "insta")
    refuse_neck(source, "insta")
    without_offset(head, source)  # says that it is left out
    for frame in source.frames:
        codes = {name: getattr(frame.tracking, name) for name in ("shape", "expression", "jaw", "eyes", "eyelids")}
        camera = frame.camera
        record = tracker_record(frame.index, codes, camera.R, camera.t, camera.K, min(camera.width, camera.height))
        record["img_size"] = np.array([[camera.height, camera.width]], np.int64)
        write_with(folder / "checkpoint" / f"{frame.index:05d}.frame",
                   lambda path, record=record: torch.save(record, path))  # type: ignore[misc]
    write_head_name(folder, source)
    write_pictures(source.frames, lambda frame: folder / "images" / f"{frame.index:05d}.png")
