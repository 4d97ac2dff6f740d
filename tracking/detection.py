"""Detection in the pictures of a clip, by one detector or by many at once.

MediaPipe looks for a face where it was in the picture before, so pictures cannot be handed out one by one. A clip is
cut into pieces; each has a fresh detector, which sees some pictures before it first. Where pieces begin depends on the
pictures alone, and so do the results: not on how many threads there are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np

from tracking.detector import Detector, Face
from tracking.footage import ByteImage, Picture
from utils.parallel import in_order, usual_threads

PIECE = 48              # pictures at most
WARM_UP = 3             # pictures before them, after which a detector has found its way
PIECE_BYTES = 2**28     # of a piece's pictures at most
WAITING_BYTES = 2**31   # of all pieces in memory, about
THUMBNAIL = 64          # pixels a side: colours and layout of a picture, without its detail


class Seen(NamedTuple):
    """A picture, the faces in it, and the picture as a thumbnail [64,64,3]."""

    picture: Picture
    faces: list[Face]
    thumbnail: ByteImage


def _look(detector: Detector, picture: Picture) -> Seen:
    thumbnail = cv2.resize(picture.rgb, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Seen(picture, detector.detect(picture.rgb, picture.time), np.asarray(thumbnail, np.uint8))


def one_by_one(pictures: Iterable[Picture], detector: Detector, progress: Callable[[], object]) -> Iterator[Seen]:
    """What one detector sees in each picture; `progress` is called after each."""
    for picture in pictures:
        seen = _look(detector, picture)
        progress()
        yield seen


def in_pieces(
    pictures: Iterable[Picture], opened: Callable[[], AbstractContextManager[Detector]], progress: Callable[[], object]
) -> Iterator[Seen]:
    """What is seen in each picture, by a detector for each piece in as many threads as cores and memory allow.

    opened: makes a detector that has seen nothing. progress: called after each picture, by one thread at a time.
    """
    lock = threading.Lock()

    def detect(piece: tuple[list[Picture], list[Picture]]) -> list[Seen]:
        before, own = piece
        found = []
        with opened() as detector:
            for picture in before:
                detector.detect(picture.rgb, picture.time)
            for picture in own:
                found.append(_look(detector, picture))
                with lock:
                    progress()
        return found

    remaining = iter(pictures)
    first = next(remaining, None)
    if first is None:
        return
    length = max(1, min(PIECE, PIECE_BYTES // first.rgb.nbytes))
    threads = max(1, min(usual_threads(), WAITING_BYTES // (length * first.rgb.nbytes)))
    for found in in_order(detect, _pieces(first, remaining, length), threads, ahead=threads):
        yield from found


def _pieces(
    first: Picture, remaining: Iterator[Picture], length: int
) -> Iterator[tuple[list[Picture], list[Picture]]]:
    """The pictures to warm up with, and those of the piece."""
    before: list[Picture] = []
    own = [first, *islice(remaining, length - 1)]
    while own:
        yield before, own
        before, own = own[-WARM_UP:], list(islice(remaining, length))
