"""Mattes made by other processes: the same as here, their errors come back, and they stop when they are given up."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from flame import load_head
from tests.heads import still_fit
from tracking import matte_job
from tracking import workers as tracking_workers
from tracking.matte_job import RUN_IN, MatteJob
from tracking.matting import MatteSettings, cut_at_neck, foreground_colours, matte_clip
from tracking.mesh_view import MeshView
from tracking.workers import Workers, shared_out
from tracking.workspace import PictureStore
from utils.parallel import usual_threads

FRAMES, SIZE = 5, 96
SKIN, WALL = (200, 150, 120), (60, 90, 140)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> MatteJob:
    """The open head, of one colour, before a wall; it nods towards the camera."""
    head, folder, rng = load_head("open"), tmp_path_factory.mktemp("job"), np.random.default_rng(0)
    fit = still_fit(head, FRAMES, SIZE)
    fit = replace(fit, t=fit.t + np.linspace(0, 0.03, FRAMES, dtype=np.float32)[:, None])
    view, rgb = MeshView(head, fit, SIZE), PictureStore(folder / "rgb")
    for index in range(FRAMES):
        share = view.silhouette(index)[..., None] > 0.5
        noise = rng.normal(0, 2, (SIZE, SIZE, 3))
        rgb.write(index, np.clip(np.where(share, SKIN, WALL) + noise, 0, 255).astype(np.uint8))
    inside = np.full((SIZE, SIZE), 255, np.uint8)
    inside[:, :4] = 0
    return MatteJob("open", fit, rgb, PictureStore(folder / "alpha"), inside, MatteSettings(), range(FRAMES))


def wait(workers: Workers) -> None:
    deadline = time.monotonic() + 120
    while not workers.done(1):
        assert time.monotonic() < deadline


def test_processes_cut_out_what_this_one_would(job: MatteJob) -> None:
    with Workers(2) as workers:
        workers.start([replace(job, frames=part) for part in shared_out(FRAMES, 2)])
        wait(workers)
    assert job.found.written == FRAMES
    view = MeshView(load_head("open"), job.fit, SIZE)
    here = matte_clip(job.rgb.read, FRAMES, view.silhouette, job.settings, cut_neck=False)
    for index, wanted in enumerate(here):
        colours, found = np.split(job.found.read(index), [3], axis=2)
        found = found[..., 0]
        np.testing.assert_array_equal(found, np.minimum(wanted, job.inside))
        np.testing.assert_array_equal(colours, foreground_colours(job.rgb.read(index), found))
        head = view.draw(index).head
        cut = cut_at_neck(found, head)
        assert (cut <= found).all()
        rows = np.flatnonzero(head.any(axis=1))
        middle = slice(rows[0], rows[0] + len(rows) // 2)
        np.testing.assert_array_equal(cut[middle], found[middle])
        assert cut[rows[-1] + 2:].max(initial=0) == 0 < found.max()


def test_a_part_leans_on_the_pictures_before_it(
    job: MatteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for the mattes of `RUN_IN` pictures more, and keeps its own."""
    assert RUN_IN >= FRAMES
    part = replace(job, frames=range(3, FRAMES), found=PictureStore(tmp_path / "found"))
    monkeypatch.setattr(matte_job, "matte_clip", lambda images, count, *_: iter([images(i)[..., 0] for i in
                                                                               range(count)]))
    monkeypatch.setattr(matte_job, "clip_colours", lambda *_: None)
    part()
    assert part.found.written == FRAMES - 3
    for index in range(3, FRAMES):
        np.testing.assert_array_equal(part.found.read(index)[..., 3], np.minimum(job.rgb.read(index)[..., 0],
                                                                                 job.inside))


def test_their_errors_come_back(job: MatteJob, tmp_path: Path) -> None:
    lost = replace(job, rgb=PictureStore(tmp_path / "gone"), found=PictureStore(tmp_path / "found"))
    with Workers(2) as workers, pytest.raises(FileNotFoundError, match="00000"):
        workers.start([lost])
        wait(workers)


def test_a_process_takes_job_after_job_and_returns_what_they_found() -> None:
    with Workers(2) as workers:
        for numbers in ([3.0, 4.0], [5.0]):
            workers.start([partial(max, number, 0.0) for number in numbers])
            wait(workers)
            assert workers.results == numbers


def test_a_process_has_its_share_of_the_cores() -> None:
    with Workers(2) as workers:
        workers.start([usual_threads])
        wait(workers)
    assert workers.results == [max(1, usual_threads() // 2)]


def test_a_sudden_end_is_told() -> None:
    with Workers(1) as workers, pytest.raises(RuntimeError, match=r"ended before its time \(exit code 7\)"):
        workers.start([partial(os._exit, 7)])
        wait(workers)


def test_they_end_with_the_context_whatever_they_do() -> None:
    begin = time.monotonic()
    with Workers(1) as workers:
        workers.start([partial(time.sleep, 300)])
        assert not workers.done(0.1)
    assert not workers._processes[0].is_alive() and time.monotonic() - begin < 100


def test_a_job_ends_when_its_program_is_killed(job: MatteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed:
        def is_alive(self) -> bool:
            return False

    monkeypatch.setattr(tracking_workers, "parent_process", Killed)
    left = replace(job, found=PictureStore(tmp_path / "found"))
    left()
    assert not left.found.written


@pytest.mark.parametrize(("count", "parts"), [(5, 2), (448, 4), (3, 4), (1, 4), (0, 2)])
def test_pictures_are_shared_out(count: int, parts: int) -> None:
    runs = shared_out(count, parts)
    assert [i for run in runs for i in run] == list(range(count))
    assert all(runs) and len(runs) == min(count, parts)
    assert max(map(len, runs), default=0) - min(map(len, runs), default=0) <= 1


def test_nothing_is_cut_where_no_head_is_seen() -> None:
    alpha = np.full((8, 8), 255, np.uint8)
    assert cut_at_neck(alpha, np.zeros((4, 4), bool)).max() == 0
