"""Checkpoints: round trip, strict reading, damage, and a full disk that costs nothing."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import scene.checkpoint as module
from scene.checkpoint import (
    Checkpoint,
    CheckpointError,
    avatar_tensors,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from tests.avatars import small_avatar


def saved(folder: Path, iteration: int = 7, keep: int = 0) -> Path:
    training = {"moments": torch.arange(5.0)}
    return save_checkpoint(folder / "checkpoints", Checkpoint(iteration, small_avatar(), training, {"note": "x"}), keep)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    loaded = load_checkpoint(saved(tmp_path))
    assert loaded.iteration == 7
    assert loaded.state["note"] == "x"
    assert torch.equal(loaded.training["moments"], torch.arange(5.0))
    before, after = avatar_tensors(small_avatar()), avatar_tensors(loaded.avatar)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    assert loaded.avatar.neutral.requires_grad


def test_missing_and_unexpected_entries_are_listed(tmp_path: Path) -> None:
    path = saved(tmp_path) / module.AVATAR_FILE
    tensors = load_file(path)
    tensors["surplus"] = tensors.pop("part")
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"missing \['part'\], unexpected \['surplus'\]"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize(("name", "shape", "message"), [
    ("neutral", (40, 3), r"neutral: wanted shape \[N, 60\], got \[40, 3\]"),
    ("code_range", (3, 5), r"code_range: wanted shape \[2, K\], got \[3, 5\]"),
    ("part", (39,), "wanted 40 Gaussians everywhere"),
    ("differences.mask", (3,), "mask: wanted shape"),
])
def test_wrong_shapes_are_refused(tmp_path: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    path = saved(tmp_path) / module.AVATAR_FILE
    tensors = load_file(path)
    tensors[name] = torch.zeros(shape, dtype=tensors[name].dtype)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path.parent)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / module.AVATAR_FILE).write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match=r"avatar\.safetensors: not a readable safetensors file"):
        load_checkpoint(folder)
    (folder / module.AVATAR_FILE).unlink()
    with pytest.raises(CheckpointError, match="the checkpoint is incomplete"):
        load_checkpoint(folder)
    (folder / module.STATE_FILE).write_text(json.dumps({"format_version": 99}))
    with pytest.raises(CheckpointError, match="wanted checkpoint format 1, got 99"):
        load_checkpoint(folder)
    (folder / module.STATE_FILE).write_text("{")
    with pytest.raises(CheckpointError, match=r"state\.json: not readable"):
        load_checkpoint(folder)


def test_a_pickle_in_place_of_tensors_runs_nothing(tmp_path: Path) -> None:
    folder, witness = saved(tmp_path), tmp_path / "witness"
    code = f"cos\nsystem\n(S'touch {witness}'\ntR."
    (folder / module.AVATAR_FILE).write_bytes(code.encode())
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(folder)
    assert not witness.exists()


def test_old_checkpoints_are_pruned_and_the_newest_is_found(tmp_path: Path) -> None:
    for iteration in (1, 20, 3):
        saved(tmp_path, iteration, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == ["iteration_00000003", "iteration_00000020"]
    assert newest_checkpoint(tmp_path).iteration == 20
    assert newest_checkpoint(tmp_path, 3).iteration == 3
    with pytest.raises(CheckpointError, match=r"iteration 5, found \[3, 20\]"):
        newest_checkpoint(tmp_path, 5)
    with pytest.raises(CheckpointError, match="wanted a checkpoint, found none"):
        newest_checkpoint(tmp_path / "elsewhere")


def test_full_disk_leaves_earlier_checkpoints_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 1)

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half of i")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(CheckpointError, match="No space left on device; earlier checkpoints are untouched"):
        saved(tmp_path, 2)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["iteration_00000001"]
    assert newest_checkpoint(tmp_path).iteration == 1
