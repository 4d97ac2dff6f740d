"""train.py --refine_tracking and test.py --protocols as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from arguments import TrainSettings, load_config
from scene.checkpoint import newest_checkpoint
from scene.clip import load_clip
from tests.lpips_weights import random_alexnet
from tests.subjects import write_subject
from tests.test_train_end_to_end import refused, succeed
from training.fitting import WEIGHTS
from training.refinement import corrected
from training.world import open_world

SMALL = ["--test_frames", "3", "--num_face_gaussians", "300", "--num_teeth_gaussians", "20", "--num_expressions", "20",
         "--batch_size", "2", "--iterations", "20", "--test_views", "1", "--densify", "False", "--tensorboard", "False",
         "--lpips_loss", "0"]  # on a GPU its network would be downloaded
SCORING = ["--lpips", "alex", "--video", "False", "--pictures", "selected"]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_subject(tmp_path_factory.mktemp("subject"), 8, 48)


@pytest.fixture(scope="module")
def runs(subject: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same training with and without refinement."""
    folder = tmp_path_factory.mktemp("runs")
    succeed("train.py", "-s", str(subject), "-m", str(folder / "plain"), *SMALL, "--refine_tracking", "False")
    succeed("train.py", "-s", str(subject), "-m", str(folder / "refined"), *SMALL, "--refine_from_iter", "0")
    return {"plain": folder / "plain", "refined": folder / "refined"}


def test_the_clip_of_the_run_holds_the_corrected_tracking(runs: dict[str, Path]) -> None:
    plain, refined = load_clip(runs["plain"]), load_clip(runs["refined"])
    for name in ("R", "t"):
        moved = (getattr(refined, name) - getattr(plain, name)).abs().flatten(1).amax(dim=1)
        assert (moved[plain.train] > 1e-6).all()
        assert (moved[plain.train] < 0.02).all()
        assert (moved[plain.test] < 1e-6).all()  # too few frames to predict anything of others
    assert not torch.equal(refined.codes.expression[plain.train], plain.codes.expression[plain.train])


def test_resuming_a_finished_run_keeps_its_clip(runs: dict[str, Path]) -> None:
    before = load_clip(runs["refined"])
    data = json.loads((runs["refined"] / "config.json").read_text())["data"]["source_path"]
    succeed("train.py", "-s", data, "-m", str(runs["refined"]), "--resume", "True", "--tensorboard", "False")
    assert torch.equal(load_clip(runs["refined"]).t, before.t)


def test_protocols_are_scored_side_by_side(runs: dict[str, Path], tmp_path: Path) -> None:
    run, weights = runs["refined"], ["--lpips_weights", str(tmp_path)]
    succeed("test.py", "-m", str(run), *SCORING, *weights)
    plain = json.loads((run / "metrics.json").read_text())
    assert {"test_as_tracked", "test_seen"}.isdisjoint(plain)
    assert plain["test"]["tracking"] == "predicted"
    assert "By tracking" not in (run / "report.html").read_text()
    text = succeed("test.py", "-m", str(run), *SCORING, *weights, "--protocols", "predicted", "as_tracked", "seen",
                   "--seen_steps", "15")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"] == plain["test"]  # the other protocols leave it alone
    assert metrics["test_seen"]["psnr"] > metrics["test"]["psnr"]
    assert (metrics["test_seen"]["seen_steps"], metrics["test_seen"]["seen_lpips"]) == (15, 0)
    assert "without LPIPS" in text
    assert [metrics[f"test_{name}"]["tracking"] for name in ("as_tracked", "seen")] == ["as_tracked", "seen"]
    assert text.count("whole frame, 3 frames") == 3
    report = (run / "report.html").read_text()
    assert report.index("as tracked") < report.index("corrected as training suggests") < report.index("estimated from")
    succeed("test.py", "-m", str(run), *SCORING, *weights)  # another avatar may have been scored: all is new
    assert "test_seen" not in json.loads((run / "metrics.json").read_text())


def test_a_frame_is_seen_with_lpips_where_its_weights_are(runs: dict[str, Path], tmp_path: Path) -> None:
    weights = ["--lpips_weights", str(random_alexnet(tmp_path / "weights"))]
    seen = ["--protocols", "seen", "--seen_steps", "1"]
    text = succeed("test.py", "-m", str(runs["refined"]), *SCORING, *weights, *seen)
    assert json.loads((runs["refined"] / "metrics.json").read_text())["test"]["seen_lpips"] == WEIGHTS.lpips_loss
    assert "without LPIPS" not in text


def test_without_refinement_the_prediction_is_the_tracking(runs: dict[str, Path], tmp_path: Path) -> None:
    succeed("test.py", "-m", str(runs["plain"]), *SCORING, "--lpips_weights", str(tmp_path), "--report", "False")
    assert json.loads((runs["plain"] / "metrics.json").read_text())["test"]["tracking"] == "as_tracked"


def test_the_mesh_is_seen_as_corrected(runs: dict[str, Path]) -> None:
    """Over the pictures, and where regions are scored."""
    run = load_config(TrainSettings, runs["refined"])
    checkpoint = newest_checkpoint(runs["refined"])
    world = corrected(open_world(run.data, run.model, run.run.seed, torch.device("cpu")), checkpoint, run.refinement)
    frame = int(world.dataset.train_indices[1])
    camera = world.dataset.camera(frame)
    got = world.mesh_in_data(frame) @ camera.R.T + camera.t
    posed = world.rig.posed.vertices_at(slice(frame, frame + 1))[0]
    wanted = (posed @ world.cameras.R[frame].T + world.cameras.t[frame]).double().numpy()
    assert np.abs(got - wanted).max() < 1e-6  # metres; single precision
    assert np.abs(got - (posed.double().numpy() @ camera.R.T + camera.t)).max() > 1e-5


def test_tracking_as_it_came(runs: dict[str, Path], tmp_path: Path) -> None:
    run = runs["refined"]
    succeed("test.py", "-m", str(run), *SCORING, "--lpips_weights", str(tmp_path), "--split", "train",
            "--protocols", "as_tracked", "--report", "False")
    assert json.loads((run / "metrics.json").read_text())["train"]["tracking"] == "as_tracked"


def test_a_run_that_ends_before_refinement_starts_says_so(subject: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    said = succeed("train.py", "-s", str(subject), "-m", str(tmp_path), *SMALL, "--refine_from_iter", "40000")
    assert "--refine_from_iter: 40000 stands for iteration 20 here, not before the last one (20)" in said
    assert torch.allclose(load_clip(tmp_path).t, load_clip(runs["plain"]).t, atol=1e-6)


def test_settings_that_make_no_sense_are_refused(subject: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    said = refused("test.py", "-m", str(runs["plain"]), "--seen_steps", "0")
    assert "--seen_steps: wanted 1 or more, got 0" in said
    said = refused("test.py", "-m", str(runs["plain"]), "--protocols", "seen", "seen")
    assert "--protocols: wanted one or more of as_tracked, predicted, seen, each once, got seen seen" in said
