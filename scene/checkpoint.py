"""Checkpoints: safetensors for tensors, JSON for the rest, one folder each, complete or absent.

    OUT/checkpoints/iteration_00001000/
        avatar.safetensors     neutral and difference tables, mask, binding, parts, extensions: all that test.py needs
        training.safetensors   optimizer moments, densification statistics, random state: what --resume needs besides
        state.json             format version, iteration, counters, sampler state, options of networks

A checkpoint is written into a temporary folder that is renamed when everything is on the disk, so a crash or a full
disk leaves the earlier ones untouched. Reading is strict: missing and unexpected entries are listed, and every index is
checked, because native code follows it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blendshape_ops import MAX_SH_DEGREE, WIDTH, Binding, Differences, gaussians_of_pairs
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flame import Head
from scene.avatar import PART_NAMES, Avatar
from scene.extensions import attributes_from, networks_from
from scene.run_folder import STATE_FILE, list_checkpoints
from scene.sway import Sway
from utils.atomic import WriteError, replacing_folder, sweep_once
from utils.plain_json import read_json

FORMAT_VERSION = 1
AVATAR_FILE, TRAINING_FILE = "avatar.safetensors", "training.safetensors"


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
    named |= {} if avatar.sway is None else avatar.sway.tensors()
    return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}


_TABLES = {"neutral", "differences.values", "differences.offsets", "differences.expression", "differences.mask",
           "binding.triangle", "binding.anchor", "binding.barycentric", "binding.weights", "part", "code_range"}
_EXTENSIONS = ("attributes", "networks", "sway")


def avatar_from_tensors(tensors: dict[str, Tensor], where: str, networks: Any = None) -> Avatar:
    """The inverse of `avatar_tensors`; CheckpointError lists what is missing, unexpected or of the wrong shape.

    networks: the options of each network by its name, where the avatar has some.
    """
    extra = {kind: {name.removeprefix(f"{kind}."): tensors[name] for name in tensors if name.startswith(f"{kind}.")}
             for kind in _EXTENSIONS}
    check_names(_TABLES, {name for name in tensors if name.split(".")[0] not in _EXTENSIONS}, where)
    neutral, offsets = tensors["neutral"], tensors["differences.offsets"]
    if neutral.ndim != 2 or neutral.shape[1] != WIDTH or neutral.dtype != torch.float32:
        raise CheckpointError(f"{where}: neutral: wanted float32 [N, {WIDTH}], got {_kind(neutral)}")
    if len(neutral) == 0:
        raise CheckpointError(f"{where}: holds no Gaussian: training removed all of them; train anew")
    if not isinstance(networks or {}, dict):
        raise CheckpointError(f"{where}: networks in {STATE_FILE}: wanted options by name, got {networks!r:.100}")
    try:
        gaussian = gaussians_of_pairs(offsets, len(tensors["differences.values"]))
        differences = Differences(tensors["differences.values"], offsets, gaussian,
                                  tensors["differences.expression"], tensors["differences.mask"])
        binding = Binding(*(tensors[f"binding.{name}"] for name in ("triangle", "anchor", "barycentric", "weights")))
        _check_avatar(tensors, differences, binding, where)
        return Avatar(neutral.requires_grad_(True), differences, binding, tensors["part"], tensors["code_range"],
                      attributes_from(extra["attributes"], len(neutral)),
                      networks_from(networks or {}, extra["networks"]), networks or {}, Sway.of_tensors(tensors))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from None


def _check_avatar(tensors: dict[str, Tensor], differences: Differences, binding: Binding, where: str) -> None:
    """CheckpointError where types, numbers of rows or indices contradict each other."""
    code_range, part, count = tensors["code_range"], tensors["part"], len(tensors["neutral"])
    if code_range.ndim != 2 or len(code_range) != 2 or code_range.dtype != torch.float32:
        raise CheckpointError(f"{where}: code_range: wanted shape [2, K] of float32, got {_kind(code_range)}")
    if bool(code_range.isnan().any()):
        raise CheckpointError(f"{where}: code_range: holds a number that is not one")
    for name, tensor in (("differences.values", differences.values), ("binding.anchor", binding.anchor)):
        if tensor.dtype != torch.float32:
            raise CheckpointError(f"{where}: {name}: wanted float32, got {tensor.dtype}")
    if differences.num_expressions_used > code_range.shape[1]:
        raise CheckpointError(f"{where}: code_range: wanted [2, {differences.num_expressions_used}] or more, as "
                              f"differences.expression needs, got {list(code_range.shape)}")
    if part.ndim != 1 or part.dtype != torch.uint8 or (part.numel() and int(part.max()) >= len(PART_NAMES)):
        raise CheckpointError(f"{where}: part: wanted uint8 [N] below {len(PART_NAMES)}, got {_kind(part)}")
    sizes = {"differences.offsets": len(differences.offsets) - 1, "binding": len(binding.triangle), "part": len(part)}
    wrong = {name: size for name, size in sizes.items() if size != count}
    if wrong:
        raise CheckpointError(f"{where}: wanted {count} Gaussians everywhere, got {wrong}")


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
    state = {"format_version": FORMAT_VERSION, "iteration": checkpoint.iteration, **checkpoint.state}
    if checkpoint.avatar.networks:
        state["networks"] = checkpoint.avatar.network_options
    try:
        with replacing_folder(target) as temporary:
            save_file(avatar_tensors(checkpoint.avatar), temporary / AVATAR_FILE)
            save_file({k: v.detach().cpu().contiguous() for k, v in checkpoint.training.items()},
                      temporary / TRAINING_FILE)
            (temporary / STATE_FILE).write_text(json.dumps(state, indent=2))
    except WriteError as error:
        raise CheckpointError(f"{target}: not written: {_cause(error)}; earlier checkpoints are untouched") from error
    for old in list_checkpoints(folder)[:-keep] if keep else []:
        shutil.rmtree(old, ignore_errors=True)
    return target


def _cause(error: WriteError) -> object:
    """What the disk or a library said, without our own sentence around it."""
    cause = error.__cause__ or error
    return getattr(cause, "strerror", None) or cause


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


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
        state = read_json(state_path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{state_path}: not readable ({error})") from None
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        found = str(state.get("format_version"))[:60] if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{state_path}: wanted checkpoint format {FORMAT_VERSION}, got {found}")
    iteration = whole_number(state, "iteration", str(state_path), 0, 1 << 40)
    avatar = avatar_from_tensors(_load_tensors(path / AVATAR_FILE), str(path / AVATAR_FILE), state.get("networks"))
    training = _load_tensors(path / TRAINING_FILE) if with_training else {}
    return Checkpoint(iteration, avatar, training, state)


def whole_number(state: dict[str, Any], name: str, where: str, low: int, high: int) -> int:
    """state[name], a whole number within low..high; CheckpointError otherwise."""
    value = state.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise CheckpointError(f"{where}: {name}: wanted a whole number from {low} to {high}, got {str(value)[:60]!r}")
    return value


def check_fits(checkpoint: Checkpoint, head: Head, where: str) -> tuple[int, int]:
    """SH degree and number of expressions of a checkpoint; CheckpointError when it cannot belong to `head`."""
    degree = whole_number(checkpoint.state, "sh_degree", f"{where}: {STATE_FILE}", 0, MAX_SH_DEGREE)
    expressions = whole_number(checkpoint.state, "expressions", f"{where}: {STATE_FILE}", 0, head.n_expression)
    avatar, bones = checkpoint.avatar, len(head.parents) + 2  # the skull and the lower teeth are bones too
    for name, got, wanted in (("code_range", avatar.code_range.shape[1], expressions),
                              ("binding.weights", avatar.binding.weights.shape[1], bones)):
        if got != wanted:
            raise CheckpointError(f"{where}: {AVATAR_FILE}: {name}: wanted {wanted} columns, got {got}")
    used, faces = avatar.binding.num_triangles_used, len(head.faces)
    if used > faces:
        raise CheckpointError(f"{where}: {AVATAR_FILE}: binding.triangle: wanted triangles below {faces} of the head, "
                              f"got {used - 1}")
    if avatar.sway is not None:
        for what, got, wanted in (("vertices of the head", len(avatar.sway.share), len(head.v_template)),
                                  ("expressions", len(avatar.sway.unit), expressions)):
            if got != wanted:
                raise CheckpointError(f"{where}: {AVATAR_FILE}: sway: wanted {wanted} {what}, got {got}")
    return degree, expressions


def newest_checkpoint(model_path: Path, iteration: int = -1, with_training: bool = True) -> Checkpoint:
    """The newest checkpoint of a run, or that of `iteration`; CheckpointError says what is there instead."""
    sweep_once(model_path / "checkpoints")
    found = list_checkpoints(model_path / "checkpoints")
    if iteration >= 0:
        found = [p for p in found if p.name == f"iteration_{iteration:08d}"]
    if not found:
        wanted = "a checkpoint" if iteration < 0 else f"the checkpoint of iteration {iteration}"
        available = [int(p.name.split("_")[1]) for p in list_checkpoints(model_path / "checkpoints")]
        raise CheckpointError(f"{model_path}: wanted {wanted}, found {available or 'none'}")
    return load_checkpoint(found[-1], with_training)
