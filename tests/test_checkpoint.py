"""Checkpoints: round trip, strict reading, damage, and a full disk that costs nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import scene.checkpoint as module
from scene.checkpoint import (
    Checkpoint,
    CheckpointError,
    avatar_tensors,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from scene.run_folder import list_checkpoints
from tests.avatars import small_avatar
from utils import atomic


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
    ("neutral", (40, 3), r"neutral: wanted float32 \[N, 60\], got torch.float32 \[40, 3\]"),
    ("code_range", (3, 5), r"code_range: wanted shape \[2, K\] of float32, got torch.float32 \[3, 5\]"),
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


@pytest.mark.parametrize(("name", "change", "message"), [
    ("differences.offsets", lambda t: t + 1, r"offsets: wanted numbers that rise from 0 to \d+, .* got 1 to"),
    ("differences.offsets", lambda t: t + 10**6, r"offsets: wanted numbers that rise from 0 to \d+"),
    ("differences.offsets", lambda t: t.roll(1), r"offsets: wanted numbers that rise"),
    ("differences.offsets", lambda t: torch.where(torch.arange(len(t)) % 2 == 1, 2**31 - 1, 0).int(),
     r"offsets: wanted numbers that rise"),
    ("differences.offsets", lambda t: t[:0], r"offsets: wanted \[N \+ 1\] numbers, got none"),
    ("differences.expression", lambda t: t + 10**6, r"code_range: wanted \[2, \d+\] or more"),
    ("differences.expression", lambda t: t - 10**6, r"expression: wanted indices from 0"),
    ("code_range", lambda t: t[:, :1].contiguous(), r"code_range: wanted \[2, \d+\] or more"),
    ("code_range", lambda t: t * float("nan"), r"code_range: holds a number that is not one"),
    ("part", lambda t: t + 100, r"part: wanted uint8 \[N\] below 3"),
    ("part", lambda t: t.int(), r"part: wanted uint8 \[N\] below 3, got torch.int32"),
    ("neutral", lambda t: t.double(), r"neutral: wanted float32"),
])
def test_indices_that_would_lead_outside_are_refused(tmp_path: Path, name: str, change: Any, message: str) -> None:
    path = saved(tmp_path) / module.AVATAR_FILE
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=rf"avatar\.safetensors: {message}"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize(("text", "message"), [
    ('{"format_version": 1, "iteration": [1]}', "iteration: wanted a whole number"),
    ('{"format_version": 1}', "iteration: wanted a whole number"),
    ("[" * 100_000, "not readable"),
    ("[1]", "wanted checkpoint format 1, got list"),
    ("\udcff", "not readable"),
])
def test_wrong_states_are_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = saved(tmp_path)
    (folder / module.STATE_FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=rf"state\.json: {message}"):
        load_checkpoint(folder)


def test_what_killed_runs_left_is_swept_and_what_lives_is_kept(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1).parent
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    names = {f".iteration_00000002.{atomic.MACHINE}-{int(dead.stdout)}-00000000.tmp": False,
             f".iteration_00000003.{atomic.MACHINE}-{os.getpid()}-00000000.tmp": True,
             f".iteration_00000004.{'f' * 8}-1-00000000.tmp": True}  # another machine may be writing it
    for name in names:
        (folder / name).mkdir()
        (folder / name / "avatar.safetensors").write_bytes(b"half")
    saved(tmp_path, 5)
    assert {name: (folder / name).exists() for name in names} == names
    for path in (folder / list(names)[2]).rglob("*"):
        os.utime(path, (1, 1))
    os.utime(folder / list(names)[2], (1, 1))
    saved(tmp_path, 6)
    assert not (folder / list(names)[2]).exists(), "untouched for days"


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_checkpoint_is_replaced_without_a_moment_without_one(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool) -> None:
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    folder = saved(tmp_path, 1)
    (folder / "old").write_text("x")
    moments: list[int] = []
    remove = shutil.rmtree

    def watched(path: Any, **kwargs: Any) -> None:
        moments.append(len(list_checkpoints(folder.parent)))
        remove(path, **kwargs)

    monkeypatch.setattr(atomic.shutil, "rmtree", watched)
    saved(tmp_path, 1)
    assert set(moments) == {1}, "nothing is removed before the new one is in place"
    assert not (folder / "old").exists()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_checkpoint_moved_aside_by_a_killed_run_comes_back(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    folder.rename(folder.with_name(f".{folder.name}.{atomic.MACHINE}-{int(dead.stdout)}-00000000.old"))
    assert newest_checkpoint(tmp_path).iteration == 1


def test_files_have_the_usual_rights(tmp_path: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in saved(tmp_path).iterdir()}
    assert modes == {0o666 & ~atomic._UMASK}
