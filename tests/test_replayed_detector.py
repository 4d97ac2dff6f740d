"""The detector that stands in for MediaPipe in a benchmark: it finds what was recorded and takes its time."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.replayed_detector import ReadByOpenCV, Replayed, busy, written_by_opencv
from tests.track_videos import moving_face, write_clip
from tracking.footage import Listed, Span
from tracking.records import BLENDSHAPE_NAMES, LANDMARKS
from tracking.video import open_footage
from utils.arrays import write_npz


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Two faces in picture 0, none in picture 1, one in picture 2; 10 ms a picture, 4 of them under Python's lock."""
    points = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((1, LANDMARKS, 3), np.float32)
    write_npz(tmp_path / "faces.npz", {
        "time": np.array([0, 0.04, 0.08]), "count": np.array([2, 0, 1]), "points": points,
        "pose": np.zeros((3, 4, 4), np.float32), "blendshapes": np.zeros((3, len(BLENDSHAPE_NAMES)), np.float32),
        "seconds": np.array([0.01, 0.004, 0.0, 0.05])})
    return tmp_path / "faces.npz"


def test_it_finds_what_was_recorded(recorded: Path) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    with Replayed(recorded, None).another() as detector:
        found = [[float(face.points[0, 0]) for face in detector.detect(picture, when)] for when in (0.081, 0.0, 0.04)]
        assert detector.detect_alone(picture) == []
    assert found == [[2], [0, 1], []]


def test_it_takes_its_time(recorded: Path) -> None:
    begin = time.thread_time()
    detector = Replayed(recorded, None)
    opened, picture = time.thread_time(), np.zeros((4, 4, 3), np.uint8)
    detector.detect(picture, 0.0)
    assert opened - begin >= 0.05 and time.thread_time() - opened >= 0.01
    faster = Replayed(recorded, 0.002)
    assert (faster.seconds, faster.locked) == (0.002, pytest.approx(0.0008))
    begin = time.thread_time()
    busy(0.02, 0.0)
    assert 0.02 <= time.thread_time() - begin < 0.1


def test_a_video_is_read_and_written_without_pyav(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", moving_face(6))
    film, exact = ReadByOpenCV(path), list(open_footage(path).pictures(Span()))
    assert film.expected == 6
    assert [p.index for p in film.pictures(Listed(frozenset({1, 4})))] == [1, 4]
    assert [p.index for p in film.pictures(Span(end=0.1))] == [0, 1, 2]
    for picture, wanted in zip(film.pictures(Span()), exact, strict=True):
        assert picture.time == pytest.approx(wanted.time)
        assert np.abs(picture.rgb.astype(int) - wanted.rgb).mean() < 3  # another conversion from YUV
    with written_by_opencv(tmp_path / "b.mp4", fps=25) as add:
        for picture in exact:
            add(picture.rgb)
    assert ReadByOpenCV(tmp_path / "b.mp4").expected == 6
