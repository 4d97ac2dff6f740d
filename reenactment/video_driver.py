"""A film of a face as a driver, read with the live reader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from reenactment.arkit import arkit_head
from reenactment.driver import Driver
from reenactment.face import FaceReader, Seen
from reenactment.motion import HeadMotion
from scene.rig import Codes
from tracking.detector import Detector
from tracking.footage import Footage, Span
from tracking.landmarks import NoFaceError


def driver_of_video(footage: Footage, detector: Detector, span: Span) -> Driver:
    """The face of a film, one frame for each picture from the first with a face on.

    Raises NoFaceError when no picture shows a face, and what the footage raises.
    """
    reader = FaceReader(detector)
    seen: list[Seen] = []
    times: list[float] = []
    first, wanted = 0, 0
    for picture in tqdm(footage.pictures(span), total=footage.expected, unit="frame", desc="reading the face"):
        wanted += 1
        found = reader.read(picture.rgb, picture.time)
        if found is None:
            first = wanted
            continue
        seen.append(found)
        times.append(picture.time)
    if not seen:
        raise NoFaceError(f"{footage.path}: no face was found in any of {wanted} pictures; it must be well lit and "
                          "turned to the camera")
    unseen = [f"{footage.path.name}: no face in {reader.lost} of {wanted} pictures; there the avatar waits"]
    notes = [*footage.notes, *(unseen if reader.lost else [])]
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0

    def pictures() -> Iterator[NDArray[np.uint8]]:
        again = Span(span.start, span.end, span.fps)
        for number, picture in enumerate(footage.pictures(again)):
            if number >= first:
                yield picture.rgb

    codes = joined_codes([frame.codes for frame in seen])
    return Driver(footage.path.stem, arkit_head(), codes, joined_motion([frame.motion for frame in seen]),
                  1 / step if step > 0 else None, pictures, tuple(notes))


def joined_codes(parts: list[Codes]) -> Codes:
    """Codes of frames one after another."""
    rows = {name: torch.cat([getattr(part, name) for part in parts])
            for name in ("expression", "jaw", "eyes", "eyelids")}
    return Codes(shape=parts[0].shape, **rows)


def joined_motion(parts: list[HeadMotion]) -> HeadMotion:
    """Motion of frames one after another."""
    return HeadMotion(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(HeadMotion)))
