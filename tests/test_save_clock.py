"""When train.py saves by itself: by the clock unless --checkpoint_interval says otherwise, and always at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

import train
from arguments import DataSettings, ModelSettings, OptimizationSettings, RunSettings, TrainSettings
from tests.subjects import write_subject


def saved(folder: Path, interval: int | None, keep: int = 0) -> list[int]:
    """The iterations of which four steps leave a checkpoint."""
    run = RunSettings(folder / "out", device="cpu", checkpoint_interval=interval, keep_checkpoints=keep,
                      tensorboard=False, check_data=False)
    train.train(TrainSettings(
        DataSettings(write_subject(folder, 5, 32), test_frames=1), run,
        ModelSettings(num_face_gaussians=100, num_teeth_gaussians=10),
        OptimizationSettings(iterations=4, batch_size=1, densify=False)))
    return sorted(int(path.name.split("_")[1]) for path in (folder / "out" / "checkpoints").iterdir())


@pytest.mark.parametrize(("seconds", "interval", "wanted"), [
    (0.0, None, [1, 2, 3, 4]), (3600.0, None, [4]), (0.0, 3, [3, 4]),
], ids=["the clock", "a short run", "an interval"])
def test_it_saves_by_the_clock_or_by_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, interval: int | None, wanted: list[int]
) -> None:
    monkeypatch.setattr(train, "SAVE_SECONDS", seconds)
    assert saved(tmp_path, interval) == wanted


def test_a_clock_rings_once_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    clock, silent = train.SaveClock(10.0), train.SaveClock(None)
    rung = []
    for now[0] in (5, 10, 11, 19, 35, 36):
        rung.append(clock.rings())
        assert not silent.rings()
    assert rung == [False, True, False, False, True, False]
