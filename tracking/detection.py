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

from tracking.detector import Detector, Face
from tracking.footage import Picture
from utils.parallel import in_order, usual_threads

PIECE = 48              # pictures at most
WARM_UP = 3             # pictures before them, after which a detector has found its way
PIECE_BYTES = 2**28     # of a piece's pictures at most
WAITING_BYTES = 2**31   # of all pieces in memory, about

Seen = Iterator[tuple[Picture, list[Face]]]


def one_by_one(pictures: Iterable[Picture], detector: Detector, progress: Callable[[], object]) -> Seen:
    """Each picture and the faces in it, by one detector; `progress` is called after each."""
    for picture in pictures:
        faces = detector.detect(picture.rgb, picture.time)
        progress()
        yield picture, faces


def in_pieces(
    pictures: Iterable[Picture], opened: Callable[[], AbstractContextManager[Detector]], progress: Callable[[], object]
) -> Seen:
    """Each picture and the faces in it, by a detector for each piece in as many threads as cores and memory allow.

    opened: makes a detector that has seen nothing. progress: called after each picture, by one thread at a time.
    """
    lock = threading.Lock()

    def detect(piece: tuple[list[Picture], list[Picture]]) -> list[tuple[Picture, list[Face]]]:
        before, own = piece
        found = []
        with opened() as detector:
            for picture in before:
                detector.detect(picture.rgb, picture.time)
            for picture in own:
                found.append((picture, detector.detect(picture.rgb, picture.time)))
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
