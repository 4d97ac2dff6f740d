"""What training learnt of a tracker's errors, kept with the run, corrects other tracking of the same person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from arguments import TrainSettings, load_config
from flame import load_head
from player import open_player
from player.player import Player
from reenactment.driver import open_driver
from scene.calibration import Calibration
from scene.checkpoint import newest_checkpoint
from scene.clip import CLIP_FILE, calibrated_clip, load_clip, save_clip
from tests.heads import random_head
from tests.player_subject import CPU, EXPRESSIONS, lively_player, made_up_calibration, write_run
from tests.reference_folder import write_data_set
from tests.subjects import write_subject
from tests.test_reenact import frames_of
from tests.test_reenact_drivers import live_link
from tests.test_train_end_to_end import refused, succeed
from training.refinement import corrected
from training.world import open_world
from utils.images import read_rgb, read_rgba

SMALL = ["--test_frames", "8", "--split", "blocks", "--num_face_gaussians", "500", "--num_teeth_gaussians", "20",
         "--num_expressions", "20", "--batch_size", "4", "--iterations", "160", "--test_views", "1", "--densify",
         "False", "--tensorboard", "False", "--lpips_loss", "0", "--device", "cpu"]
FRAMES, SIZE = 44, 40


def knowing(calibration: Calibration | None) -> Player:
    """A player whose clip has this calibration."""
    player = lively_player()
    clip = replace(player.clip, calibration=calibration)
    return Player(player.head, player.avatar, clip, player.sh_degree, EXPRESSIONS, CPU, "known")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracker that puts the head up to 3 cm off, the farther the more it is turned."""
    folder = write_subject(tmp_path_factory.mktemp("subject") / "data", FRAMES, SIZE)
    for path in (folder / "checkpoint").iterdir():
        content = torch.load(path, weights_only=False)
        camera = content["opencv"]
        camera["t"] = camera["t"] + 0.03 * camera["R"][:, :, 2] * np.array([1, 1, 0], np.float32)
        torch.save(content, path)
    return folder


@pytest.fixture(scope="module")
def run(subject: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    succeed("train.py", "-s", str(subject), "-m", str(out), *SMALL)
    return out


def test_the_prediction_is_the_same_from_the_file_alone(run: Path) -> None:
    """As `test.py` scores it, by what the checkpoint holds of held-out frames."""
    settings = load_config(TrainSettings, run)
    world = open_world(settings.data, settings.model, 0, CPU, progress=False)
    scored, kept = corrected(world, newest_checkpoint(run), settings.refinement).clip, load_clip(run)
    assert kept.calibration is not None
    alone, test = calibrated_clip(world.clip, kept.calibration), kept.test
    assert len(test) == 8
    for name in ("R", "t"):
        assert torch.allclose(getattr(alone, name)[test], getattr(scored, name)[test], atol=1e-7), name
    for name in ("expression", "jaw", "eyes", "eyelids"):
        got, wanted = getattr(alone.codes, name)[test], getattr(scored.codes, name)[test]
        assert torch.allclose(got, wanted, atol=1e-6), name
    assert (alone.t - world.clip.t)[test].abs().max() > 1e-3


def test_driven_by_the_same_person_the_avatar_comes_as_near_as_its_score(
    run: Path, subject: Path, tmp_path: Path
) -> None:
    """Held-out pictures, which training never saw: against the driver's, and against those that test.py draws."""
    succeed("test.py", "-m", str(run), "--lpips", "alex", "--lpips_weights", str(tmp_path), "--video", "False",
            "--pictures", "all", "--report", "False", "--device", "cpu")
    test = load_clip(run).test.tolist()
    rgba = np.stack([read_rgba(subject / "images" / f"{index:05d}.png") for index in test]).astype(float)
    truth = rgba[..., :3] * rgba[..., 3:] / 255
    scored = np.stack([read_rgb(run / "test" / "prediction" / f"{index:05d}.png") for index in test])
    errors, others = [], []
    for same in ("False", "True"):
        film = tmp_path / f"{same}.mp4"
        succeed("reenact.py", str(run), "--driver", str(subject), "--same_person", same, "--center", "none",
                "--project", "none", "-o", str(film), "--device", "cpu")
        shown = frames_of(film)[0][test].astype(float)
        errors.append(np.square(shown - truth).mean())
        others.append(np.square(shown - scored).mean())
    # 0.84 and 0.36 when this was written; the film's compression is part of all four.
    assert errors[1] < 0.93 * errors[0]
    assert others[1] < 0.6 * others[0]


def test_an_older_run_gets_its_calibration_by_resuming(run: Path, subject: Path) -> None:
    kept = load_clip(run)
    assert kept.calibration is not None
    save_clip(replace(kept, calibration=None), run)
    assert load_clip(run).calibration is None
    said = refused("reenact.py", str(run), "--driver", str(subject), "--same_person", "True", "--device", "cpu")
    assert "out: wanted a calibration in its clip.safetensors, found none" in said
    succeed("train.py", "-s", str(subject), "-m", str(run), "--resume", "True", "--tensorboard", "False", "--device",
            "cpu")
    again = load_clip(run).calibration
    assert again is not None
    for name, tensor in kept.calibration.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


def test_a_clip_comes_back_with_its_calibration(tmp_path: Path) -> None:
    clip, wanted = lively_player().clip, made_up_calibration()
    save_clip(replace(clip, calibration=wanted), tmp_path)
    got = load_clip(tmp_path).calibration
    assert got is not None
    assert got.camera == "" and got.expressions == EXPRESSIONS
    for name, tensor in wanted.tensors().items():
        assert torch.equal(got.tensors()[name], tensor), name
    save_clip(clip, tmp_path)
    assert load_clip(tmp_path).calibration is None


def test_a_driver_is_corrected_before_anything_else(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", lively_player())
    plain, same = open_driver(data), open_driver(data, avatar=knowing(made_up_calibration()))
    assert plain.motion is not None and same.motion is not None
    moved = same.motion.middle - plain.motion.middle
    assert torch.allclose(moved, 0.01 * plain.codes.jaw[:, :1].expand(-1, 3), atol=1e-6)
    assert torch.equal(same.codes.expression, plain.codes.expression)


def damaged(**changes: torch.Tensor | None) -> Calibration:
    """A calibration that is written with other tensors, or without some."""

    class Damaged(Calibration):
        def tensors(self) -> dict[str, torch.Tensor]:
            found = super().tensors() | {f"calibration.{name}": value for name, value in changes.items()}
            return {name: value for name, value in found.items() if value is not None}

    whole = made_up_calibration()
    return Damaged(whole.weights, whole.feature_mean, whole.feature_limits, whole.limits, whole.facing, whole.center)


@pytest.mark.parametrize(("changes", "message"), [
    ({"weights": None}, r"calibration: wanted center, .*, weights, got center, facing, .*, feature_mean, limits$"),
    ({"more": torch.zeros(1)}, r"calibration: wanted center, .* got .* more, weights"),
    ({"weights": torch.zeros(())}, r"calibration.weights: wanted torch.float64 \[14, 26\], got torch.float32 \[\]"),
    ({"weights": torch.zeros(26, 37).double()}, r"calibration.weights: wanted .* \[26, 38\], got .* \[26, 37\]"),
    ({"feature_mean": torch.zeros(26)}, r"calibration.feature_mean: wanted torch.float64 \[26\], got torch.float32"),
    ({"limits": torch.zeros(2, 5).double()}, r"calibration.limits: wanted torch.float64 \[2, 38\], got .* \[2, 5\]"),
    ({"center": torch.full((3,), torch.nan).double()}, "calibration.center: holds a number that is not finite"),
])
def test_malformed_calibrations_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    save_clip(replace(lively_player().clip, calibration=damaged(**changes)), tmp_path)
    with pytest.raises(ValueError, match=rf"clip\.safetensors: {message}"):
        load_clip(tmp_path)


def test_a_calibration_of_more_codes_than_there_are_is_refused(tmp_path: Path) -> None:
    save_clip(replace(lively_player().clip, calibration=made_up_calibration(53)), tmp_path)
    with pytest.raises(ValueError, match=r"calibration.weights: wanted at most 52 expressions, .* got 53"):
        load_clip(tmp_path)


def test_a_calibration_of_another_avatar_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, knowing(made_up_calibration(EXPRESSIONS + 1)))
    with pytest.raises(ValueError, match=rf"{CLIP_FILE}: calibration.weights: wanted 12 expressions .* got 13"):
        open_player(tmp_path, CPU)


def test_drivers_that_no_tracker_made_are_refused(tmp_path: Path) -> None:
    player = knowing(made_up_calibration())
    take = live_link(tmp_path / "take.csv", [{}])
    with pytest.raises(ValueError, match=r"--same_person: wanted a data set as --driver, got the blendshapes of an"):
        open_driver(take, avatar=player)
    with pytest.raises(ValueError, match=r"--same_person: wanted a data set as --driver, got a run"):
        open_driver(write_run(tmp_path / "run", player), avatar=player)


def test_drivers_that_the_calibration_does_not_fit_are_refused(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", lively_player())
    with pytest.raises(ValueError, match=r"--same_person: known: wanted a calibration in its clip.safetensors, found"):
        open_driver(data, avatar=knowing(None))
    with pytest.raises(ValueError, match=r"data: camera: wanted pictures of left, .* got those of a single camera"):
        open_driver(data, avatar=knowing(made_up_calibration(camera="left")))
    other = knowing(made_up_calibration())
    other.head = random_head()
    with pytest.raises(ValueError, match=rf"data: wanted codes of random, .* got those of {load_head('open').name}"):
        open_driver(data, avatar=other)
