"""Checkpoints: safetensors for tensors, JSON for the rest, one folder each, complete or absent.

    OUT/checkpoints/iteration_00001000/
        avatar.safetensors     neutral and difference tables, mask, binding, parts, extensions: all that test.py needs
        training.safetensors   optimizer moments, densification statistics, random state: what --resume needs besides
        state.json             format version, iteration, counters, sampler state, options of networks

A checkpoint is written into a temporary folder that is renamed when everything is on the disk, so a crash or a full
disk leaves the earlier ones untouched. Reading is strict: missing and unexpected entries are listed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blendshape_ops import WIDTH, Binding, Differences
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from scene.avatar import Avatar
from scene.extensions import attributes_from, networks_from

FORMAT_VERSION = 1
AVATAR_FILE, TRAINING_FILE, STATE_FILE = "avatar.safetensors", "training.safetensors", "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names the file and the cause."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds. `training` and `state` are empty for an avatar that was only exported."""

    iteration: int
    avatar: Avatar
    training: dict[str, Tensor]
    state: dict[str, Any]


def avatar_tensors(avatar: Avatar) -> dict[str, Tensor]:
    """The avatar as named CPU tensors."""
    d, b = avatar.differences, avatar.binding
    named = {"neutral": avatar.neutral, "differences.values": d.values, "differences.offsets": d.offsets,
             "differences.expression": d.expression, "differences.mask": d.mask,
             "binding.triangle": b.triangle, "binding.anchor": b.anchor, "binding.barycentric": b.barycentric,
             "binding.weights": b.weights, "part": avatar.part, "code_range": avatar.code_range}
    named |= {f"attributes.{name}": values for name, values in avatar.attributes.items()}
    named |= {f"networks.{name}": values for name, values in avatar.networks.state_dict().items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}


def avatar_from_tensors(tensors: dict[str, Tensor], where: str, networks: Any = None) -> Avatar:
    """The inverse of `avatar_tensors`; CheckpointError lists what is missing, unexpected or of the wrong shape.

    networks: the options of each network by its name, where the avatar has some.
    """
    expected = {"neutral", "differences.values", "differences.offsets", "differences.expression", "differences.mask",
                "binding.triangle", "binding.anchor", "binding.barycentric", "binding.weights", "part", "code_range"}
    extra = {kind: {name.removeprefix(f"{kind}."): tensors[name] for name in tensors if name.startswith(f"{kind}.")}
             for kind in ("attributes", "networks")}
    check_names(expected, {name for name in tensors if name.split(".")[0] not in extra}, where)
    neutral, offsets = tensors["neutral"], tensors["differences.offsets"]
    if neutral.ndim != 2 or neutral.shape[1] != WIDTH:
        raise CheckpointError(f"{where}: neutral: wanted shape [N, {WIDTH}], got {list(neutral.shape)}")
    if len(neutral) == 0:
        raise CheckpointError(f"{where}: holds no Gaussian: training removed all of them; train anew")
    counts = offsets.diff().long()
    gaussian = torch.repeat_interleave(torch.arange(len(counts)), counts.clamp_min(0)).int()
    try:
        differences = Differences(tensors["differences.values"], offsets, gaussian,
                                  tensors["differences.expression"], tensors["differences.mask"])
        binding = Binding(*(tensors[f"binding.{name}"] for name in ("triangle", "anchor", "barycentric", "weights")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from None
    code_range = tensors["code_range"]
    if code_range.ndim != 2 or len(code_range) != 2:
        raise CheckpointError(f"{where}: code_range: wanted shape [2, K], got {list(code_range.shape)}")
    sizes = {"differences.offsets": len(counts), "binding": len(binding.triangle), "part": len(tensors["part"])}
    wrong = {name: size for name, size in sizes.items() if size != len(neutral)}
    if wrong:
        raise CheckpointError(f"{where}: wanted {len(neutral)} Gaussians everywhere, got {wrong}")
    if not isinstance(networks or {}, dict):
        raise CheckpointError(f"{where}: networks in {STATE_FILE}: wanted options by name, got {networks!r:.100}")
    try:
        return Avatar(neutral.requires_grad_(True), differences, binding, tensors["part"], code_range,
                      attributes_from(extra["attributes"], len(neutral)),
                      networks_from(networks or {}, extra["networks"]), networks or {})
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from None


def check_names(expected: set[str], found: set[str], where: str) -> None:
    """CheckpointError listing missing and unexpected entries, if any."""
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing or unexpected:
        raise CheckpointError(f"{where}: missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}")


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int = 0) -> Path:
    """Write `checkpoint` below `folder`; delete older ones beyond the newest `keep` (0 keeps all). Returns its folder.

    Raises CheckpointError (a full disk, missing rights): earlier checkpoints are untouched and no half one is left.
    """
    target = folder / f"iteration_{checkpoint.iteration:08d}"
    temporary = folder / f".{target.name}.{secrets.token_hex(4)}.tmp"
    try:
        temporary.mkdir(parents=True)
        save_file(avatar_tensors(checkpoint.avatar), temporary / AVATAR_FILE)
        save_file({k: v.detach().cpu().contiguous() for k, v in checkpoint.training.items()}, temporary / TRAINING_FILE)
        state = {"format_version": FORMAT_VERSION, "iteration": checkpoint.iteration, **checkpoint.state}
        if checkpoint.avatar.networks:
            state["networks"] = checkpoint.avatar.network_options
        (temporary / STATE_FILE).write_text(json.dumps(state, indent=2))
        for path in temporary.iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(f"{target}: not written: {error}; earlier checkpoints are untouched") from error
    for old in list_checkpoints(folder)[:-keep] if keep else []:
        shutil.rmtree(old, ignore_errors=True)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints below `folder`, oldest first."""
    if not folder.is_dir():
        return []
    complete = [p for p in folder.iterdir() if (p / STATE_FILE).is_file()]
    return sorted(p for p in complete if re.fullmatch(r"iteration_\d{8,}", p.name))


def _load_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; the checkpoint is incomplete")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None


def load_checkpoint(path: Path, with_training: bool = True) -> Checkpoint:
    """Read a checkpoint folder (CPU tensors). CheckpointError names the file and what was wanted."""
    state_path = path / STATE_FILE
    try:
        state = json.loads(state_path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{state_path}: not readable ({error})") from None
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        found = state.get("format_version") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{state_path}: wanted checkpoint format {FORMAT_VERSION}, got {found}")
    avatar = avatar_from_tensors(_load_tensors(path / AVATAR_FILE), str(path / AVATAR_FILE), state.get("networks"))
    training = _load_tensors(path / TRAINING_FILE) if with_training else {}
    return Checkpoint(int(state["iteration"]), avatar, training, state)


def newest_checkpoint(model_path: Path, iteration: int = -1, with_training: bool = True) -> Checkpoint:
    """The newest checkpoint of a run, or that of `iteration`; CheckpointError says what is there instead."""
    found = list_checkpoints(model_path / "checkpoints")
    if iteration >= 0:
        found = [p for p in found if p.name == f"iteration_{iteration:08d}"]
    if not found:
        wanted = "a checkpoint" if iteration < 0 else f"the checkpoint of iteration {iteration}"
        available = [int(p.name.split("_")[1]) for p in list_checkpoints(model_path / "checkpoints")]
        raise CheckpointError(f"{model_path}: wanted {wanted}, found {available or 'none'}")
    return load_checkpoint(found[-1], with_training)
