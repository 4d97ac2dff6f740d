"""Settings that the user leaves open: by the number of cameras that train, or as an earlier run decided them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train
from arguments import (
    ONE_CAMERA,
    SEVERAL_CAMERAS,
    DataSettings,
    ModelSettings,
    OptimizationSettings,
    RunSettings,
    TrainSettings,
    load_config,
    parse_flags,
)
from scene.recording import Recording
from tests.subjects import write_subject
from tests.test_refinement_cameras import ring_world
from training.team import ALONE
from training.trainer import Trainer

SMALL = ["--test_frames", "1", "--batch_size", "1", "--num_teeth_gaussians", "20", "--check_data", "False",
         "--tensorboard", "False", "--test_views", "0", "--device", "cpu", "--lpips_loss", "0"]


def left_open(folder: Path = Path("unused")) -> TrainSettings:
    return TrainSettings(DataSettings(folder), RunSettings(folder))


def shown(settings: TrainSettings) -> dict[str, dict[str, float]]:
    return {group: {name: getattr(getattr(settings, group), name) for name in names}
            for group, names in ONE_CAMERA.items()}


def test_several_cameras_take_more_of_everything() -> None:
    settings = left_open()
    assert shown(settings.decided(several=False)) == ONE_CAMERA
    assert shown(settings.decided(several=True)) == SEVERAL_CAMERAS
    assert settings.decided(several=True).optimization.lpips_loss is None  # by the device, not by the cameras


@pytest.mark.parametrize("several", [False, True])
def test_what_the_user_says_stays(several: bool) -> None:
    settings = replace(left_open(), model=ModelSettings(num_face_gaussians=300),
                       optimization=OptimizationSettings(iterations=50, densify_grad_threshold=1e-3))
    assert settings.decided(several) == settings


def test_a_trainer_counts_the_cameras_that_train(tmp_path: Path) -> None:
    settings = replace(left_open(tmp_path), model=ModelSettings(num_face_gaussians=200),
                       optimization=OptimizationSettings(batch_size=2, densify=False))
    ring = ring_world()
    alone = replace(ring, clip=replace(ring.clip, recorded=Recording.single(len(ring.clip))))
    for world, wanted in ((ring, SEVERAL_CAMERAS), (alone, ONE_CAMERA)):
        found = Trainer(settings, world, torch.device("cpu")).settings
        assert found.optimization.iterations == wanted["optimization"]["iterations"]
        assert found.optimization.densify_grad_threshold == wanted["optimization"]["densify_grad_threshold"]
        assert found.model.num_face_gaussians == 200


def test_a_run_keeps_what_it_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A resumed run is not told that its settings differ for what it leaves open, and goes on with the run's own."""
    monkeypatch.setitem(ONE_CAMERA, "optimization", {"iterations": 2, "densify_grad_threshold": 5e-4})
    monkeypatch.setitem(ONE_CAMERA, "model", {"num_face_gaussians": 200})
    flags = ["-s", str(write_subject(tmp_path, 5, 32)), "-m", str(tmp_path / "run"), *SMALL]
    train.train(parse_flags(TrainSettings, "train.py", flags))
    saved = load_config(TrainSettings, tmp_path / "run")
    assert shown(saved) == ONE_CAMERA
    monkeypatch.setitem(ONE_CAMERA, "optimization", {"iterations": 3, "densify_grad_threshold": 6e-4})
    with caplog.at_level(logging.INFO):
        trainer = train.prepare(parse_flags(TrainSettings, "train.py", [*flags, "--resume", "True"]), ALONE)
    assert trainer.settings.optimization == saved.optimization
    assert "continues with the settings saved" not in caplog.text
