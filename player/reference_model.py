"""Models trained with the reference implementation: its five checkpoint files as an avatar that our renderer plays.

    OUT/fix_chkpnt40000.pth     face: tuple of 19 (docs/formats.md), pickled by torch
    OUT/acc40000.npy            constants of the face Gaussians, pickled by NumPy
    OUT/mouth0_chkpnt40000.pth  upper teeth: tuple of 12;  mouth1_chkpnt40000.pth: lower teeth
    OUT/cfg_args                the run's settings as text

The files are pickles, read without running anything in them. Their constants are used as stored, also where they
differ from what the head model says (pose correctives three times too strong, steps between triangles): the learnt
parameters belong to them. Every Gaussian becomes a triangle of its own, so that the one posing operation serves.
"""

from __future__ import annotations

import ast
import re
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from blendshape_ops import LOG_SCALES, MEANS, OPACITY, QUATS, SH, Binding, Differences
from torch import Tensor
from torch.nn import functional

from arguments import DataSettings
from scene.avatar import FACE, LOWER_TEETH, UPPER_TEETH, Avatar
from scene.checkpoint import CheckpointError
from scene.readers.tracker import MODES
from scene.rig import JAW_BONE, SKULL_BONE, Rig
from utils.safe_pickle import load_numpy_dict, load_torch_tuple

FACE_STEM, UPPER_STEM, LOWER_STEM, CONSTANTS_STEM = "fix_chkpnt", "mouth0_chkpnt", "mouth1_chkpnt", "acc"
FACE_LENGTH, TEETH_LENGTH = 19, 12
JOINTS, FEATURES = 5, 36
_NEUTRAL = {"positions": 1, "harmonics 0": 2, "harmonics 1 to 3": 3, "scales": 4, "rotations": 5, "opacities": 6}
_DIFFERENCES = {"position differences": 10, "harmonics differences": 11, "scale differences": 12,
                "rotation differences": 13, "opacity differences": 14}
_LOWER_TEETH = (0.0426467828, 0.944269622)
"""Weights of neck and jaw in the lower teeth. The reference adds what is missing to 1 as identity (T = I + J_w - J_w0),
which the root, always at rest, stands for."""


@dataclass(frozen=True, eq=False)
class ReferenceModel:
    """A read model, on the CPU.

    motion [K,N,7]: what each expression does to position and quaternion besides the learnt differences;
    correctives [36,N,3], eyelids [2,N,3]: position per pose feature and lid. data: where its data set was.
    """

    avatar: Avatar
    motion: Tensor
    correctives: Tensor
    eyelids: Tensor
    sh_degree: int
    iteration: int
    data: DataSettings

    @property
    def num_expressions(self) -> int:
        return len(self.motion)


def reference_iterations(folder: Path) -> list[int]:
    """Iterations of the face checkpoints of the reference in `folder`, ascending; empty if it is no such model."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    found = [re.fullmatch(rf"{FACE_STEM}(\d+)\.pth", name) for name in names]
    return sorted(int(match[1]) for match in found if match)


def load_reference_model(folder: Path, iteration: int = -1, source_path: Path | None = None) -> ReferenceModel:
    """Read the model of an iteration (-1: the newest). source_path: its data set, instead of what cfg_args says.

    Raises CheckpointError naming what is missing or has another shape, UnsafePickleError and DamagedFileError
    (ValueErrors) for files that are not what they should be.
    """
    available = reference_iterations(folder)
    chosen = available[-1] if iteration < 0 and available else iteration
    if chosen not in available:
        raise CheckpointError(f"{folder}: wanted {FACE_STEM}{iteration}.pth, found iterations {available or 'none'}")
    paths = {stem: folder / f"{stem}{chosen}.{'npy' if stem == CONSTANTS_STEM else 'pth'}"
             for stem in (FACE_STEM, CONSTANTS_STEM, UPPER_STEM, LOWER_STEM)}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise CheckpointError(f"{folder}: {', '.join(missing)} missing; a model of the reference has "
                              f"{', '.join(path.name for path in paths.values())} and cfg_args")
    face = load_torch_tuple(paths[FACE_STEM], FACE_LENGTH, [0, *_NEUTRAL.values(), *_DIFFERENCES.values()])
    tables = {FACE: _neutral_table(face, paths[FACE_STEM])}
    for part, stem in ((UPPER_TEETH, UPPER_STEM), (LOWER_TEETH, LOWER_STEM)):
        teeth = load_torch_tuple(paths[stem], TEETH_LENGTH, list(_NEUTRAL.values()))
        tables[part] = _neutral_table(teeth, paths[stem])
    values = _difference_tables(face, len(tables[FACE]), paths[FACE_STEM])
    constants = _constants(paths[CONSTANTS_STEM], len(tables[FACE]), values[MEANS.start, MEANS.stop].shape[-1])
    degree = face[0]
    if not isinstance(degree, int) or not 0 <= degree <= 3:
        raise CheckpointError(f"{paths[FACE_STEM]}: entry 0 (active degree): wanted 0 to 3, got {degree!r}")
    pad = (0, 0, 0, sum(map(len, tables.values())) - len(tables[FACE]))  # teeth: no constants
    motion = torch.cat([constants["D"], constants["B"]], dim=1).permute(2, 0, 1)
    return ReferenceModel(
        _avatar(tables, values, constants), motion=functional.pad(motion, pad),
        correctives=functional.pad(constants["C"], pad), eyelids=functional.pad(constants["L"].permute(2, 0, 1), pad),
        sh_degree=degree, iteration=chosen, data=_data(folder, source_path))


def reference_rig(rig: Rig, model: ReferenceModel) -> Rig:
    """The rig of the same head, identity and codes that moves the model's Gaussians by their stored constants."""
    count, device = len(model.avatar.neutral), rig.device
    weights = rig.head.mouth.lower_weights.new_zeros(JOINTS)
    weights[1:3] = weights.new_tensor(_LOWER_TEETH)
    weights[0] = 1 - weights.double().sum()
    changed = copy(rig)
    changed.head = replace(rig.head, mouth=replace(rig.head.mouth, lower_weights=weights))
    changed.num_expressions = model.num_expressions
    changed.faces = torch.arange(count, dtype=torch.int32, device=device)[:, None].repeat(1, 3)
    maps = torch.zeros(model.num_expressions, count, 16)
    maps[..., 9:] = model.motion
    changed.maps = maps.flatten(1).to(device)
    changed.pose_dirs = model.correctives.flatten(1).to(device)
    changed.eyelid_dirs = model.eyelids.flatten(1).to(device)
    return changed.with_codes(rig.codes)


def _checked(value: Any, shape: tuple[int | None, ...], where: str) -> Tensor:
    """float32 tensor of that shape (None: any); CheckpointError otherwise."""
    tensor = torch.as_tensor(value) if not isinstance(value, (int, float, str, dict, type(None))) else None
    fits = tensor is not None and tensor.ndim == len(shape) and all(
        wanted in (None, got) for wanted, got in zip(shape, tensor.shape, strict=True))
    if tensor is None or not fits or not tensor.is_floating_point():
        got = f"{tensor.dtype} {list(tensor.shape)}" if tensor is not None else type(value).__name__
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise CheckpointError(f"{where}: wanted floating numbers [{wanted}], got {got}")
    return tensor.float()


def _neutral_table(entries: dict[int, Any], path: Path) -> Tensor:
    """The packed table [P,60] of one of the three models."""
    count: int | None = None
    parts = []
    for (name, entry), tail in zip(_NEUTRAL.items(), ((3,), (1, 3), (15, 3), (3,), (4,), (1,)), strict=True):
        parts.append(_checked(entries[entry], (count, *tail), f"{path}: entry {entry} ({name})").flatten(1))
        count = len(parts[0])
    means, constant, rest, scales, quats, opacities = parts
    return torch.cat([means, quats, scales, opacities, constant, rest, means.new_zeros(len(means), 1)], dim=1)


def _difference_tables(entries: dict[int, Any], count: int, path: Path) -> dict[tuple[int, int], Tensor]:
    """Learnt differences [P,columns,K] by their columns in the packed table."""
    found: dict[tuple[int, int], Tensor] = {}
    expressions: int | None = None
    for (name, entry), columns, shape in zip(
            _DIFFERENCES.items(), (MEANS, SH, LOG_SCALES, QUATS, OPACITY), ((3,), (16, 3), (3,), (4,), (1,)),
            strict=True):
        table = _checked(entries[entry], (count, *shape, expressions), f"{path}: entry {entry} ({name})")
        expressions = table.shape[-1]
        found[columns.start, columns.stop] = table.reshape(count, -1, expressions)
    return found


def _constants(path: Path, count: int, expressions: int) -> dict[str, Tensor]:
    """The constants, found by their shapes: D [P,3,K], B [P,4,K], C [36,P,3], L [P,3,2], M [P,K], W [P,5]."""
    wanted = {"D": (count, 3, expressions), "B": (count, 4, expressions), "S": (count, 16, 3, expressions),
              "C": (FEATURES, count, 3), "L": (count, 3, 2), "M": (count, expressions), "W": (count, JOINTS)}
    stored = list(load_numpy_dict(path).values())
    found = {}
    for name, shape in wanted.items():
        fitting = [value for value in stored if tuple(getattr(value, "shape", ())) == shape]
        if name == "S" and not fitting:
            continue  # zero in every model, and so left out by some
        if len(fitting) != 1:
            raise CheckpointError(f"{path}: wanted one array {name} of shape {list(shape)}, found {len(fitting)} "
                                  f"among {[list(getattr(value, 'shape', ())) for value in stored]}")
        found[name] = _checked(fitting[0], shape, f"{path}: {name}")
    if "S" in found and bool(found.pop("S").any()):
        raise CheckpointError(f"{path}: constant rotations of the harmonics (init_sh) are not zero, as they are in "
                              "every model that the published code writes; such a model cannot be shown")
    return found


def _avatar(tables: dict[int, Tensor], values: dict[tuple[int, int], Tensor], constants: dict[str, Tensor]) -> Avatar:
    face, total = len(tables[FACE]), sum(map(len, tables.values()))
    mask = functional.pad(constants["M"], (0, 0, 0, total - face))
    differences = Differences.from_mask(mask)
    rows, expression = differences.gaussian.long(), differences.expression.long()
    for (start, stop), table in values.items():
        differences.values[:, start:stop] = table.transpose(1, 2)[rows, expression]
    weights = torch.zeros(total, JOINTS + 2)
    weights[:face, :JOINTS] = constants["W"]
    parts = torch.cat([torch.full((len(table),), part) for part, table in tables.items()]).to(torch.uint8)
    weights[parts == UPPER_TEETH, SKULL_BONE] = 1
    weights[parts == LOWER_TEETH, JAW_BONE] = 1
    number = torch.arange(total, dtype=torch.int32)
    binding = Binding(torch.where(parts == FACE, number, -1), torch.zeros(total, 3),
                      torch.tensor([1.0, 0, 0]).repeat(total, 1), weights)
    limit = torch.full((mask.shape[1],), float("inf"))  # the reference follows codes without limit
    return Avatar(torch.cat(list(tables.values())).requires_grad_(True), differences, binding, parts,
                  torch.stack([-limit, limit]))


def _data(folder: Path, source_path: Path | None) -> DataSettings:
    """Where the data set is and in which of the three modes it is read."""
    path = folder / "cfg_args"
    if not path.is_file() and source_path is None:
        raise CheckpointError(f"{path}: not found; it says where the data set is, without which there are no codes "
                              "and cameras; --source_path can say it instead")
    settings: dict[str, Any] = {}
    if path.is_file():
        try:
            call = ast.parse(path.read_text(encoding="utf-8").strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise CheckpointError(f"{path}: wanted the text of an argument namespace, got something else "
                                  f"({error})") from None
        constants = [k for k in getattr(call, "keywords", []) if isinstance(k.value, ast.Constant)]
        settings = {str(keyword.arg): keyword.value.value for keyword in constants}
    if source_path is None and not isinstance(settings.get("source_path"), str):
        raise CheckpointError(f"{path}: names no source_path; --source_path says where the data set is")
    source = source_path or Path(settings["source_path"])
    whole = settings.get("use_nerfBS") is True
    frames = sum(1 for _ in source.glob("checkpoint/*.frame"))
    # Such a model was trained on all but the last frames of the convention, however short its clip.
    convention = MODES["nerfbs" if whole else "insta"].default_test_frames
    return DataSettings(source_path=source, use_nerfBS=whole, use_HR=settings.get("use_HR") is True,
                        test_frames=convention if frames > convention else -1, cache="stream")
