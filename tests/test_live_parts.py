"""The parts of live.py: coverage, what is kept, the fit and the training that grow, first colours."""

from __future__ import annotations

from dataclasses import fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blendshape_ops import SH, SH_C0

from arguments import DataSettings, ModelSettings, OptimizationSettings, RunSettings, TrainSettings
from flame import load_head
from online.coverage import ENOUGH, EXPRESSIONS, VIEWS, Coverage, seen_in
from online.first_colours import paint
from online.recorded_landmarks import RecordedDetector
from online.tracker import GrowingData, TrackerSettings
from online.watcher import Keeper, Kept, preview
from tests.subjects import write_subject
from tests.track_clips import make_truth, observe
from tests.track_videos import PaintedFaceDetector, moving_face, picture
from tracking.continued_fit import ContinuedFit
from tracking.landmark_fit import FitSettings, fit_clip
from tracking.records import Observations
from training.growth import grown
from training.trainer import Trainer
from training.world import open_world
from utils.arrays import write_npz

CPU = torch.device("cpu")
QUICK = FitSettings(iterations=6, shape_codes=10)


# Coverage.


def test_a_picture_counts_for_what_it_shows() -> None:
    assert seen_in({}, 0, 0) == {"front"}
    assert seen_in({"jawOpen": 0.6}, 15, 0) == {"open", "left"}
    assert seen_in({"mouthSmileLeft": 0.6}, -40, 12) == {"far right", "down"}  # half a smile is none
    assert seen_in({"eyeLookOutRight": 0.5}, 0, -15) == {"glance right", "up"}


def test_what_is_missing_is_asked_for_until_it_was_seen_often_enough() -> None:
    coverage = Coverage()
    assert coverage.share == 0 and len(coverage.missing()) == len(VIEWS) + len(EXPRESSIONS)
    assert coverage.missing()[:2] == ["open your mouth wide", "look straight ahead"]
    for _ in range(ENOUGH):
        assert "smile" in coverage.missing()
        coverage.add({"smile", "front"})
    assert "smile" not in coverage.missing() and "look straight ahead" not in coverage.missing()
    assert coverage.share == pytest.approx(2 / (len(VIEWS) + len(EXPRESSIONS)))
    assert "| smile | ●●●● |" in coverage.table() and "| kiss | ○○○○ |" in coverage.table()
    coverage.add(set(coverage.counts))
    for _ in range(ENOUGH):
        coverage.add(set(coverage.counts))
    assert coverage.share == 1 and coverage.missing() == []


def test_pictures_are_kept_at_a_rate_with_one_whole_face() -> None:
    detector, keeper = PaintedFaceDetector(), Keeper(rate=10, most=3)
    alone, two = picture(), picture(((50, 60, 30), (120, 60, 20)))
    outside = picture(((5, 60, 30),))

    def wants(image: np.ndarray, time: float) -> bool:
        return keeper.wants(detector.detect(image, time), image.shape, time)

    assert wants(alone, 0.0) and not wants(two, 0.0) and not wants(outside, 0.0) and not wants(picture(()), 0.0)
    for number, time in enumerate((0.0, 0.11, 0.22)):
        assert wants(alone, time) and keeper.keep(detector.detect(alone, time)[0], time) == number
        assert not wants(alone, time + 0.05)
    assert not wants(alone, 9.0), "no more than most"
    assert keeper.coverage.counts["front"] == 3


def test_the_preview_shows_landmarks_and_strangers_in_red() -> None:
    image = picture(((50, 60, 30), (120, 60, 20)))
    drawn = preview(image, PaintedFaceDetector().detect(image, 0.0))
    assert drawn.shape == image.shape
    left, right = drawn[:, :85].reshape(-1, 3).astype(int), drawn[:, 85:].reshape(-1, 3).astype(int)
    assert (np.abs(left - (120, 255, 120)).sum(1) < 60).any() and (np.abs(right - (255, 90, 90)).sum(1) < 60).any()
    assert not (np.abs(right - (120, 255, 120)).sum(1) < 60).any()


# The fit that grows.


def part(observations: Observations, frames: slice) -> Observations:
    cut: dict[str, Any] = {item.name: getattr(observations, item.name)[frames] for item in fields(observations)
                           if isinstance(getattr(observations, item.name), np.ndarray)}
    return replace(observations, **cut)


def test_further_frames_are_fitted_as_well_as_all_together() -> None:
    head = load_head("open")
    truth = make_truth(head, 40, 256)
    seen = observe(head, truth, 256, 0.3)
    settings = FitSettings(iterations=12, shape_codes=20)
    growing = ContinuedFit(head, part(seen, slice(0, 24)), settings, CPU)
    first = growing.fit
    found = growing.more(part(seen, slice(24, 32)))
    assert len(found) == 8
    growing.more(part(seen, slice(32, 40)))
    assert len(growing.fit) == 40 and np.array_equal(growing.fit.shape, first.shape)
    assert np.array_equal(growing.fit.R[:24], first.R) and np.array_equal(growing.fit.K, first.K)
    together = fit_clip(head, seen, settings, CPU)

    def error(fit_expression: np.ndarray) -> float:
        return float(np.abs(fit_expression - truth.fit.expression)[24:].mean())

    assert error(growing.fit.expression) < 1.3 * error(together.expression)


def test_a_data_set_grows_by_kept_pictures(tmp_path: Path) -> None:
    detector = PaintedFaceDetector()
    kept = [Kept(k, k / 10, rgb, detector.detect(rgb, k / 10)[0])
            for k, rgb in enumerate(moving_face(30, width=320, height=240))]
    data = GrowingData(TrackerSettings(tmp_path / "data", 64, 16, fit=QUICK), CPU, get_context("spawn").Lock())
    data.add(kept[:16])
    before = {path.name: path.read_bytes() for path in (tmp_path / "data" / "checkpoint").iterdir()}
    aside = replace(kept[20], face=replace(kept[20].face, points=kept[20].face.points + 500))
    data.add([*kept[16:20], aside, *kept[21:24]])
    assert data.kept == [*range(20), 21, 22, 23], "a face outside the square is left out"
    after = {path.name: path.read_bytes() for path in (tmp_path / "data" / "checkpoint").iterdir()}
    assert len(before) == 16 and len(after) == 23 and all(after[name] == data for name, data in before.items())
    world = open_world(DataSettings(tmp_path / "data", test_frames=3), ModelSettings(num_face_gaussians=50), 0, CPU)
    assert len(world.clip) == 23 and world.dataset.test_indices.tolist() == [20, 21, 22]


# The training that grows.


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subject(tmp_path_factory.mktemp("subject"), 12, 32)


def trainer_of(subject: Path, held_out: int) -> Trainer:
    settings = TrainSettings(
        DataSettings(subject, test_frames=held_out), RunSettings(subject / "out"),
        ModelSettings(num_face_gaussians=200, num_teeth_gaussians=10),
        OptimizationSettings(iterations=200, batch_size=2))
    return Trainer(settings, open_world(settings.data, settings.model, 0, CPU), CPU)


def test_training_goes_on_where_it_was_when_the_clip_grows(subject: Path, tmp_path: Path) -> None:
    # The same clip cut short stands for the clip before it grew.
    short = tmp_path / "short"
    for folder in ("checkpoint", "images"):
        (short / folder).mkdir(parents=True)
        for file in sorted((subject / folder).iterdir())[:8]:
            (short / folder / file.name).write_bytes(file.read_bytes())
    for file in subject.iterdir():
        if file.is_file():
            (short / file.name).write_bytes(file.read_bytes())
    before = trainer_of(short, 2)
    for _ in range(5):
        before.step()
    assert before.refinement is not None
    neutral, moments = before.avatar.neutral.detach().clone(), before.optimizer.state_dict()["neutral_exp_avg"].clone()
    corrections = before.refinement.values.clone()
    after = grown(before, trainer_of(subject, 2).world)
    assert after.iteration == 5 and after.refinement is not None
    assert torch.equal(after.avatar.neutral, neutral)
    assert torch.equal(after.optimizer.state_dict()["neutral_exp_avg"], moments)
    assert torch.equal(after.refinement.values[:8], corrections) and not bool(after.refinement.values[8:].any())
    drawn = set()
    for _ in range(20):
        after.step()
        drawn |= set(after._inputs.frames.tolist())
    assert drawn == set(range(10)), "all frames that train now, and none that is held out"
    assert after.iteration == 25
    codes = after.world.rig.beta[after.world.dataset.train_indices]
    assert torch.allclose(after.avatar.code_range[1], codes.amax(0).clamp_min(0))


def test_first_colours_are_those_of_the_pictures(subject: Path) -> None:
    trainer = trainer_of(subject, 2)
    target = trainer.world.dataset.rgba_batch([0])[0].float() / 255
    wanted = target[..., :3][target[..., 3] > 0.95].mean(0)

    @torch.no_grad()
    def off() -> float:
        drawn = trainer.render_frames([0])
        shown = drawn.alpha[0] > 0.3
        return float((drawn.image[0][:, shown].mean(1) / drawn.alpha[0][shown].mean() - wanted).abs().max())

    before = off()
    assert paint(trainer.avatar, trainer.world) > 30
    assert off() < 0.15 < before
    assert trainer.avatar.neutral.requires_grad
    dc = 0.5 + SH_C0 * trainer.avatar.neutral.detach()[:, SH.start:SH.start + 3]
    assert float(dc.min()) > -0.1 and float(dc.max()) < 1.1


# Landmarks found beforehand.


def test_recorded_landmarks_answer_by_time(tmp_path: Path) -> None:
    face = PaintedFaceDetector().detect(picture(), 0.0)[0]
    arrays = {"frame": np.array([0, 2, 2]), "points": np.stack([face.points, face.points + 1, face.points + 2]),
              "blendshapes": np.stack([face.blendshapes] * 3), "pose": np.stack([face.pose] * 3),
              "fps": np.array(25.0), "frames": np.array(3)}
    write_npz(tmp_path / "film.npz", arrays)
    detector = RecordedDetector(tmp_path / "film.npz")
    found = [detector.detect(picture(), k / 25) for k in range(3)]
    assert [len(faces) for faces in found] == [1, 0, 2]
    assert np.array_equal(found[2][0].points, face.points + 1)
    write_npz(tmp_path / "other.npz", {"frame": np.zeros(1)})
    for name in ("gone.npz", "other.npz"):
        with pytest.raises(ValueError, match=rf"--landmarks .*{name}: wanted a file of python -m online"):
            RecordedDetector(tmp_path / name)
