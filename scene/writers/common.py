"""What writers share: pictures of a data set of any layout under other names, and the name of the head model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from flame import Head
from scene.frame import Frame
from scene.readers.files import HEAD_FILE
from scene.readers.source import Source
from utils.atomic import write_json
from utils.images import ByteImage, encode_image, read_mask, read_rgb, read_rgba, with_alpha
from utils.parallel import ordered

_log = logging.getLogger(__name__)


def picture_of(frame: Frame) -> tuple[ByteImage, ByteImage]:
    """Colour [H,W,3], not multiplied by alpha, and mask [H,W] of a frame. Raises ValueError naming its file."""
    if frame.mask_path is not None:
        return read_rgb(frame.image_path), read_mask(frame.mask_path)
    rgba = read_rgba(frame.image_path)
    return np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])


def write_pictures(frames: Sequence[Frame], image: Callable[[Frame], Path],
                   mask: Callable[[Frame], Path] | None = None) -> None:
    """PNG files of all frames: colour and mask apart, or, without `mask`, one with alpha. Existing files are replaced.

    image, mask: where those of a frame go; their folders are made.
    """
    def write(number: int) -> None:
        rgb, alpha = picture_of(frames[number])
        path = image(frames[number])
        if mask is None:
            path.write_bytes(encode_image(with_alpha(rgb, alpha), ".png"))
        else:
            path.write_bytes(encode_image(rgb, ".png"))
            mask(frames[number]).write_bytes(encode_image(alpha, ".png"))

    for place in (image, mask) if mask is not None else (image,):
        for folder in {place(frame).parent for frame in frames}:
            folder.mkdir(parents=True, exist_ok=True)
    for _ in ordered(write, len(frames)):
        pass


def write_head_name(folder: Path, source: Source) -> None:
    """head.json, our own addition to every layout; nothing where the data set does not say its head model."""
    if source.head is not None:
        write_json(folder / HEAD_FILE, {"head": source.head})


def refuse_several_views(source: Source, layout: str) -> None:
    """ValueError for a source of several cameras, or of lenses that differ, where a layout has room for one."""
    views = sorted({frame.view for frame in source.frames})
    if len(views) > 1:
        raise ValueError(f"layout {layout} has room for one camera, the data set has {len(views)}: "
                         f"{', '.join(views[:5])}")
    lens = source.frames[0].camera.K
    for frame in source.frames:
        if not np.allclose(frame.camera.K, lens, rtol=1e-6):
            raise ValueError(f"layout {layout} has room for one lens, but K of {frame.image_path.name} differs from "
                             f"that of {source.frames[0].image_path.name}")


def without_offset(head: Head, source: Source) -> Head:
    """The head model as a layout without static offsets has it, from the one with the offset of `source`."""
    if source.static_offset is None:
        return head
    if source.static_offset.any():
        _log.warning("the static offset of the head model has no place in this layout; it is left out")
    return head.with_offset(-torch.from_numpy(source.static_offset.copy()))


def refuse_neck(source: Source, layout: str) -> None:
    """ValueError for a source whose neck moves, where a layout has no place for it."""
    for frame in source.frames:
        if frame.tracking.neck is not None and not np.allclose(frame.tracking.neck, (1, 0, 0, 0, 1, 0), atol=1e-6):
            raise ValueError(f"layout {layout} has no place for the neck, which is turned in {frame.image_path.name}")
