"""Many detectors for one clip, pictures that stay in memory, silence in several threads, and bars that live."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.track_videos import moving_face, write_clip
from tracking import detection, progress
from tracking.detection import PIECE, WARM_UP, in_pieces
from tracking.detector import Face, heard_stderr
from tracking.footage import ByteImage, Kept, Listed, Picture, Span, Wanted
from tracking.progress import counted, progress_bar
from tracking.video import open_footage

ROOT = Path(__file__).resolve().parents[1]


def pictures(count: int) -> list[Picture]:
    return [Picture(i, i / 25, np.full((4, 4, 3), i, np.uint8)) for i in range(count)]


class Fresh:
    """Finds one face, which says how many pictures this detector had seen and which picture it is."""

    made: list[Fresh]

    def __init__(self) -> None:
        self.seen: list[int] = []
        Fresh.made.append(self)

    def __enter__(self) -> Fresh:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def detect(self, rgb: ByteImage, time: float) -> list[Face]:
        self.seen.append(round(time * 25))
        place = np.array([[len(self.seen), rgb[0, 0, 0], 0]], np.float32)
        return [Face(place, np.zeros(0, np.float32), np.eye(4, dtype=np.float32))]


@pytest.fixture(autouse=True)
def none_made() -> None:
    Fresh.made = []


@pytest.mark.parametrize("cores", [1, 7])
def test_pieces_are_the_same_whatever_the_number_of_cores(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "usual_threads", lambda: cores)
    steps: list[int] = []
    count = 2 * PIECE + 5
    found = list(in_pieces(iter(pictures(count)), Fresh, lambda: steps.append(1)))
    assert [seen.picture.index for seen in found] == list(range(count)) and len(steps) == count
    assert [seen.faces[0].points[0, 1] for seen in found] == list(range(count)), "each picture has its own faces"
    before = [seen.faces[0].points[0, 0] for seen in found]  # pictures that the detector had seen, this one included
    assert before[0] == 1 and before[PIECE - 1] == PIECE
    assert before[PIECE] == WARM_UP + 1 and before[-1] == WARM_UP + 5
    assert sorted(detector.seen[0] for detector in Fresh.made) == [0, PIECE - WARM_UP, 2 * PIECE - WARM_UP]


def test_large_pictures_come_in_small_pieces_and_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "PIECE_BYTES", 10 * 48)
    monkeypatch.setattr(detection, "WAITING_BYTES", 25 * 48)
    taken: list[int] = []

    def reading() -> Iterator[Picture]:
        for picture in pictures(100):
            taken.append(picture.index)
            yield picture

    found = in_pieces(reading(), Fresh, lambda: None)
    next(found)
    assert len(taken) <= 10 * 4, "two pieces at work, and the next ones taken"
    assert len(list(found)) == 99 and len(Fresh.made) == 10


def test_no_picture_and_a_detector_that_fails() -> None:
    assert list(in_pieces(iter(()), Fresh, lambda: None)) == []

    class Broken(Fresh):
        def detect(self, rgb: ByteImage, time: float) -> list[Face]:
            raise ValueError("broken detector")

    with pytest.raises(ValueError, match="broken detector"):
        list(in_pieces(pictures(3), Broken, lambda: None))


class Counting:
    """Footage that counts how often it is read."""

    def __init__(self) -> None:
        self.read, self.expected, self.path = 0, 8, Path("a.mp4")
        self.notes: list[str] = []

    def pictures(self, wanted: Wanted) -> Iterator[Picture]:
        self.read += 1
        yield from (p for p in pictures(8) if wanted.accepts(p.index, p.time))


@pytest.mark.parametrize(("limit", "reads"), [(8 * 48, 1), (8 * 48 - 1, 2)])
def test_pictures_are_read_once_if_all_of_them_fit(limit: int, reads: int) -> None:
    film = Counting()
    kept = Kept(film, limit + 1)
    assert [p.index for p in kept.pictures(Span())] == list(range(8))
    again = list(kept.pictures(Listed(frozenset({6, 2}))))
    assert [p.index for p in again] == [2, 6] and again[0].rgb[0, 0, 0] == 2
    assert film.read == reads
    kept.forget()
    assert len(list(kept.pictures(Listed(frozenset({2}))))) == 1 and film.read == reads + 1


def test_a_video_is_decoded_once(tmp_path: Path) -> None:
    kept = Kept(open_footage(write_clip(tmp_path / "a.mp4", moving_face(6))))
    first = [p.rgb for p in kept.pictures(Span())]
    (tmp_path / "a.mp4").unlink()
    second = [p.rgb for p in kept.pictures(Listed(frozenset(range(6))))]
    assert len(second) == 6 and all(a is b for a, b in zip(first, second, strict=True))


def test_standard_error_comes_back_when_the_last_thread_is_done() -> None:
    program = (
        "import os, sys, threading\n"
        "from tracking.detector import _silence, heard_stderr\n"
        "inside, out = threading.Event(), threading.Event()\n"
        "def other():\n"
        "    with _silence:\n"
        "        inside.set(); out.wait()\n"
        "with heard_stderr() as words:\n"
        "    thread = threading.Thread(target=other); thread.start(); inside.wait()\n"
        "    with _silence: os.write(2, b'native one ')\n"
        "    os.write(2, b'native two ')\n"
        "    print('heard', file=words, flush=True)\n"
        "    out.set(); thread.join()\n"
        "os.write(2, b'after')\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100,
                          check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stderr == "heard\nafter"


def test_words_are_heard_where_standard_error_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with heard_stderr() as words:
        assert words is sys.stderr


def test_the_clock_of_a_bar_moves_while_a_step_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.02)
    screen = io.StringIO()
    with progress_bar("Long", 2, file=screen):
        time.sleep(0.3)
        shown = screen.getvalue().count("\r")
    assert shown >= 4, "without a step"
    assert list(counted("abc", "Letters", 3, file=screen)) == ["a", "b", "c"]
    assert "3/3" in screen.getvalue()
    assert "clock of a bar" not in [thread.name for thread in threading.enumerate()]


def test_a_second_passes_between_two_looks_at_the_clock_at_most() -> None:
    assert progress.TICK < 1
