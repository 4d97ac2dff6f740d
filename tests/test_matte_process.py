"""Mattes made by a process of their own: the same as here, its errors come back, and it stops when it is given up."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from flame import load_head
from tests.test_track_verdict import still_fit
from tracking import matte_process
from tracking.matte_process import JobProcess, MatteJob
from tracking.matting import MatteSettings, cut_at_neck, foreground_colours, matte_clip
from tracking.mesh_view import MeshView
from tracking.workspace import PictureStore

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
    return MatteJob("open", fit, rgb, PictureStore(folder / "alpha"), inside, MatteSettings())


def test_a_process_cuts_out_what_this_one_would(job: MatteJob) -> None:
    with JobProcess() as process:
        process.start(job)
        assert process.done(120)
    assert job.found.complete
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


def test_its_errors_come_back(job: MatteJob, tmp_path: Path) -> None:
    lost = replace(job, rgb=PictureStore(tmp_path / "gone"), found=PictureStore(tmp_path / "found"))
    with JobProcess() as process, pytest.raises(FileNotFoundError, match="00000"):
        process.start(lost)
        process.done(120)
    assert not lost.found.complete


def test_its_sudden_end_is_told() -> None:
    with JobProcess() as process, pytest.raises(RuntimeError, match=r"ended before its time \(exit code 7\)"):
        process.start(partial(os._exit, 7))
        process.done(120)


def test_it_ends_with_the_context_whatever_it_does() -> None:
    begin = time.monotonic()
    with JobProcess() as process:
        process.start(partial(time.sleep, 300))
        assert not process.done(0.1)
    assert not process._process.is_alive() and time.monotonic() - begin < 100


def test_a_job_ends_when_its_program_is_killed(job: MatteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed:
        def is_alive(self) -> bool:
            return False

    monkeypatch.setattr(matte_process, "parent_process", Killed)
    left = replace(job, found=PictureStore(tmp_path / "found"))
    left()
    assert not left.found.complete and not left.found.path(0).exists()


def test_nothing_is_cut_where_no_head_is_seen() -> None:
    alpha = np.full((8, 8), 255, np.uint8)
    assert cut_at_neck(alpha, np.zeros((4, 4), bool)).max() == 0
