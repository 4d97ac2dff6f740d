"""track.py with the mattes made beside the refinement, as on a machine with a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.test_track_pipeline import box_matte, clip, quick_stages, run, whole
from tracking import matte_process, pipeline
from tracking.footage import ByteImage
from tracking.workspace import load_table
from utils.images import read_rgba

__all__ = ["clip", "quick_stages", "whole"]  # fixtures


class Beside:
    """Stands in for the process that makes the mattes: a thread, which the replaced stages reach."""

    def __init__(self, *device: torch.device) -> None:
        self.pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown()

    def start(self, job: Callable[[], None]) -> None:
        self.job = self.pool.submit(job)

    def done(self, seconds: float) -> bool:
        self.job.result()
        return True


def test_mattes_are_made_while_the_fit_is_refined(
    clip: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "process_beside", Beside)
    monkeypatch.setattr(matte_process, "matte_clip", box_matte)
    outcome = run(clip, tmp_path / "data")
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

    monkeypatch.setattr(pipeline, "process_beside", Beside)
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="a broken network"):
        patch.setattr(matte_process, "matte_clip", broken)
        run(clip, tmp_path / "data")
    monkeypatch.setattr(matte_process, "matte_clip", box_matte)
    assert run(clip, tmp_path / "data", resume=True).frames == 16
