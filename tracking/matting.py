"""The alpha of head, hair and neck over a clip: a network where one is given, else GrabCut; refined and kept steady."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from tracking.matte_fallback import Cutter, survey, working
from tracking.matte_model import MatteNetwork, Parsing, default_model, method_note, open_matting
from tracking.matte_refine import (
    ByteImage,
    HeadShape,
    Plate,
    cut_at_neck,
    foreground_colours,
    guided_filter,
    neck_ramp,
    refine_alpha,
    tidy,
)
from tracking.records import Floats
from utils.images import with_alpha
from utils.parallel import in_order, ordered

__all__ = ["Cutter", "MatteSettings", "by_colours", "clip_colours", "cut_at_neck", "cut_out", "foreground_colours",
           "matte_clip", "method_note"]

SAME = 8.0      # 8-bit levels: a pixel that changed less shows what it showed in the picture before
MEMORY = 0.8    # share of the alpha before in such a pixel


@dataclass(frozen=True)
class MatteSettings:
    """matting_model: a network's file (.onnx, .tflite), None = GrabCut. parsing_model: a network that labels the parts
    of a face, None = no help with clothes. clothing_classes: its labels that are clothes; empty = by their number."""

    matting_model: Path | None = None
    parsing_model: Path | None = None
    clothing_classes: tuple[int, ...] = ()


def matte_clip(
    images: Callable[[int], ByteImage], count: int, head_masks: Callable[[int], Floats],
    settings: MatteSettings | None = None, progress: Callable[[int, int], None] | None = None,
    cutter: Cutter | None = None, cut_neck: bool = True,
) -> Iterator[ByteImage]:
    """Alpha of every picture of a clip, in order: uint8 [S,S], 255 = head, hair or neck.

    Args:
        images: picture i, uint8 RGB [S,S,3]; RGBA [S,S,4] keeps its own alpha. Asked for by several threads.
        count: how many pictures there are.
        head_masks: silhouette [S,S] in 0 .. 1 of the fitted head in picture i, ending at the lower ring of the neck.
            Where it is empty, so is the matte.
        progress: called with (pictures done, count).
        cutter: what `clip_colours` returned; None: it is called now.
        cut_neck: False leaves the cut to those who know the head better by then, see `cut_at_neck`.

    Raises:
        ValueError: a count below 1, or a picture or silhouette of wrong kind or size; the message names it.
        FileNotFoundError, tracking.matte_model.MatteModelError: a network that cannot be used.
    """
    if count < 1:
        raise ValueError(f"matte_clip: at least 1 picture expected, got {count}")
    settings = settings or MatteSettings()
    model = default_model(settings.matting_model)
    network = None if model is None else open_matting(model)
    labels = settings.parsing_model
    parsing = None if labels is None else Parsing(labels, settings.clothing_classes)
    source = _Checked(images, head_masks, count)
    if source.shape[2] == 4:
        return _told((source.image(i)[..., 3] for i in range(count)), count, progress)
    return _told(_estimated(source, network, parsing, cutter, cut_neck), count, progress)


def cut_out(
    images: Callable[[int], ByteImage], mattes: Iterable[ByteImage], inside: ByteImage
) -> Iterator[ByteImage]:
    """RGBA uint8 [S,S,4] of each picture: its matte, 0 where `inside` [S,S] is, and the colours of head and hair
    without the background that shows through. images: picture i, uint8 RGB [S,S,3], asked for by several threads.
    """
    def one(numbered: tuple[int, ByteImage]) -> ByteImage:
        index, matte = numbered
        matte = np.minimum(matte, inside)
        return with_alpha(foreground_colours(images(index), matte), matte)

    return in_order(one, enumerate(mattes))


def by_colours(settings: MatteSettings) -> bool:
    """Whether no network takes part, so that pictures may be worked on in any order."""
    return default_model(settings.matting_model) is None and settings.parsing_model is None


def clip_colours(
    images: Callable[[int], ByteImage], count: int, head_masks: Callable[[int], Floats], settings: MatteSettings
) -> Cutter | None:
    """What `matte_clip` must know of the whole clip before it begins, for those who have time earlier; None where there
    is a network. Arguments as there; silhouettes may be rougher.
    """
    return _learned(_Checked(images, head_masks, count)) if default_model(settings.matting_model) is None else None


def _learned(source: _Checked) -> Cutter:
    samples = survey(source.rgb, source.count, source.silhouette)
    if not samples:
        raise ValueError("the fitted head lies in none of the pictures: without it there is nothing to cut out")
    return Cutter(samples)


class _Checked:
    """The pictures and silhouettes of a clip; everything that comes is checked against the first picture."""

    def __init__(self, images: Callable[[int], ByteImage], head_masks: Callable[[int], Floats], count: int) -> None:
        self.images, self.head_masks, self.count = images, head_masks, count
        first = images(0)
        self.shape = first.shape
        if first.ndim != 3 or first.shape[2] not in (3, 4) or first.shape[0] != first.shape[1]:
            raise ValueError(f"picture 0: a square RGB or RGBA picture expected, got {list(first.shape)}")
        self.size = len(first)

    def image(self, index: int) -> ByteImage:
        try:
            picture = self.images(index)
        except IndexError as error:
            raise ValueError(f"picture {index}: there is none, though {self.count} were announced") from error
        if picture.dtype != np.uint8 or picture.shape != self.shape:
            raise ValueError(f"picture {index}: uint8 {list(self.shape)} like the first expected, got "
                             f"{picture.dtype} {list(picture.shape)}")
        return picture

    def rgb(self, index: int) -> ByteImage:
        return np.ascontiguousarray(self.image(index)[..., :3])

    def silhouette(self, index: int) -> Floats:
        try:
            mask = self.head_masks(index)
        except IndexError as error:
            raise ValueError(f"head mask {index}: there is none, though {self.count} were announced") from error
        if mask.shape != (self.size, self.size):
            raise ValueError(f"head mask {index}: {[self.size, self.size]} like the pictures expected, got "
                             f"{list(mask.shape)}")
        return np.asarray(mask, np.float32)


def _told(
    mattes: Iterator[ByteImage], count: int, progress: Callable[[int, int], None] | None
) -> Iterator[ByteImage]:
    for index, matte in enumerate(mattes):
        yield matte
        if progress is not None:
            progress(index + 1, count)


class _Method(Protocol):
    def alpha(self, image: ByteImage, silhouette: Floats, shape: HeadShape) -> tuple[Floats, HeadShape]:
        """Alpha [S,S] of head, hair and neck, and perhaps of more of the person; the shape as far as it is seen."""


def _estimated(
    source: _Checked, network: MatteNetwork | None, parsing: Parsing | None, cutter: Cutter | None, cut_neck: bool
) -> Iterator[ByteImage]:
    method: _Method = _GrabCut(cutter or _learned(source), source.size) if network is None else _Network(network)
    with ExitStack() as stack:
        for opened in (network, parsing):
            if opened is not None:
                stack.callback(opened.close)

        def rough(index: int) -> tuple[HeadShape | None, Floats, Floats]:
            image, silhouette = source.rgb(index), source.silhouette(index)
            stays = staying(source.rgb(index - 1), image) if index else np.zeros(silhouette.shape, np.float32)
            shape = HeadShape.of(silhouette)
            if shape is None:
                return None, np.zeros(silhouette.shape, np.float32), stays
            alpha, shape = method.alpha(image, silhouette, shape)
            if parsing is not None:
                alpha = alpha * (1 - _sharpened(parsing.clothing(image), image, shape))
            return shape, alpha, stays

        # Networks take one picture after the other: some keep what they saw before.
        by_threads = network is None and parsing is None
        found = ordered(rough, source.count) if by_threads else map(rough, range(source.count))
        yield from in_order(partial(_finished, cut_neck), steadied(found))


def steadied(found: Iterable[tuple[HeadShape | None, Floats, Floats]]) -> Iterator[tuple[HeadShape | None, Floats]]:
    """Alphas [S,S] that lean on the one before where the picture stays as it was, see `staying`; after a
    picture without the head there is none to lean on."""
    before: Floats | None = None
    for shape, alpha, stays in found:
        if shape is not None and before is not None:
            alpha = alpha + stays * (before - alpha)
        before = None if shape is None else alpha
        yield shape, alpha


def _finished(cut_neck: bool, steady: tuple[HeadShape | None, Floats]) -> ByteImage:
    shape, alpha = steady
    if shape is not None:
        alpha = tidy(alpha, shape) * (neck_ramp(shape) if cut_neck else 1)
    return np.asarray(cv2.convertScaleAbs(alpha, alpha=255), np.uint8)


def _sharpened(share: Floats, image: ByteImage, shape: HeadShape) -> Floats:
    """The borders of a coarse map [S,S] laid along those of the picture."""
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    return guided_filter(grey, share, max(2, round(0.02 * shape.unit)), 1e-3)


class _Network:
    """Mattes by a network; one that works smaller than the pictures gets its fine borders from the refinement."""

    def __init__(self, network: MatteNetwork) -> None:
        self.network = network

    def alpha(self, image: ByteImage, silhouette: Floats, shape: HeadShape) -> tuple[Floats, HeadShape]:
        alpha = self.network.alpha(image)
        if self.network.side is None or self.network.side >= len(image):
            return alpha, shape
        return refine_alpha(image, alpha, shape, None), shape


class _GrabCut:
    """Mattes without a network."""

    def __init__(self, cutter: Cutter, size: int) -> None:
        self.cutter = cutter
        self.plate = _resized(cutter.plate, -(-size // 2))

    def alpha(self, image: ByteImage, silhouette: Floats, shape: HeadShape) -> tuple[Floats, HeadShape]:
        sample = working(image, silhouette)
        if sample is None:
            return np.zeros(silhouette.shape, np.float32), shape
        worn = self.cutter.clothing(sample)
        rough, clothes = (cv2.resize(mask.astype(np.float32), silhouette.shape[::-1])
                          for mask in (self.cutter.cut(sample, worn), worn))
        shape = shape.without(clothes >= 0.5)
        return refine_alpha(image, np.asarray(rough, np.float32), shape, self.plate) * (1 - clothes), shape


def _resized(plate: Plate | None, size: int) -> Plate | None:
    if plate is None:
        return None
    known = cv2.resize(plate.known.astype(np.uint8), (size, size), interpolation=cv2.INTER_NEAREST) > 0
    return Plate(np.asarray(cv2.resize(plate.colour, (size, size)), np.float32), known, plate.noise)


def staying(before: ByteImage, image: ByteImage) -> Floats:
    """How far the alpha of a picture leans on the one before [S,S], so that it does not flicker where the picture
    stands still: MEMORY where colours agree. Hair that moved has other colours and takes nothing from before.
    """
    half = tuple(-(-side // 2) for side in image.shape[1::-1])
    old, new = (cv2.GaussianBlur(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), (3, 3), 0.5)
                for picture in (before, image))
    change = np.maximum.reduce(cv2.split(cv2.absdiff(old, new))).astype(np.float32) / np.float32(SAME)
    stays = np.float32(MEMORY) * np.exp(-change * change)
    return np.asarray(cv2.resize(stays, image.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)
