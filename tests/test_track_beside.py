"""track.py with the mattes made beside the refinement, as on a machine with a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_track_pipeline import PaintedFaceDetector, box_matte, clip, quick_stages, settings, whole
from tracking import matte_job
from tracking.footage import ByteImage
from tracking.pipeline import track_video
from tracking.run import Outcome
from tracking.workers import Workers
from tracking.workspace import load_table
from utils.images import read_rgba

__all__ = ["clip", "quick_stages", "whole"]  # fixtures


class Beside(Workers):
    """Stands in for the processes: threads, which the replaced stages reach."""

    def __enter__(self) -> Beside:
        self.pool = ThreadPoolExecutor(self.count)
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown()

    def start(self, jobs: Sequence[Callable[[], object]]) -> None:
        assert len(jobs) <= self.count
        self.jobs = [self.pool.submit(job) for job in jobs]

    def done(self, seconds: float) -> bool:
        self.results = [job.result() for job in self.jobs]
        return True


def run_beside(video: Path, output: Path, **changes: Any) -> Outcome:
    with Beside(3) as workers:
        return track_video(settings(video, output, **changes), torch.device("cpu"), PaintedFaceDetector(),
                           workers=workers, later=True)


def test_mattes_are_made_while_the_fit_is_refined(
    clip: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matte_job, "matte_clip", box_matte)
    outcome = run_beside(clip, tmp_path / "data")
    assert list(outcome.seconds) == ["landmarks", "crop", "fit", "refine", "matte", "write"]
    assert load_table(outcome.folder / "tracking.json")["verdict"] == load_table(whole / "tracking.json")["verdict"]
    # The head itself is the matte here, of the rough fit, cut at the refined one's neck.
    for one, other in zip(sorted((outcome.folder / "images").iterdir()), sorted((whole / "images").iterdir()),
                          strict=True):
        assert np.abs(read_rgba(one)[..., 3].astype(int) - read_rgba(other)[..., 3]).mean() < 5


def test_mattes_that_fail_beside_the_refinement_end_the_run(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **named: object) -> Iterator[ByteImage]:
        raise ValueError("a broken network")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="a broken network"):
        patch.setattr(matte_job, "matte_clip", broken)
        run_beside(clip, tmp_path / "data")
    monkeypatch.setattr(matte_job, "matte_clip", box_matte)
    assert run_beside(clip, tmp_path / "data", resume=True).frames == 16
