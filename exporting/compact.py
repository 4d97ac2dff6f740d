"""The compact avatar file: half precision, without what cannot be seen; exporting/numpy_player.py poses it.

Everything that moves or changes a Gaussian is a list of (driver, Gaussian, values): expressions (learnt differences and
the mesh's motion), pose features and eyelids. Layout: docs/formats.md.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from blendshape_ops import LOG_SCALES, MEANS, OPACITY, QUATS, active_columns
from blendshape_ops.reference import surface_motion, surface_offset
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from arguments.export_settings import ExportSettings
from exporting.poses import refuse_pose
from flame import Joints
from player.player import Player
from scene.sway import CODES
from utils.atomic import write_with

log = logging.getLogger(__name__)

FORMAT_NAME, FORMAT_VERSION = "gaussian-blendshape-avatar", 1
Tables = dict[str, NDArray[np.generic]]
INVISIBLE = 1 / 255  # opacity below which the renderer skips a Gaussian
# Differences are dropped where, at the largest code of training, they change no attribute by more than this.
STILL = {"means": 4e-5, "quats": 4e-3, "log_scales": 1.6e-2, "opacity": 4e-2, "sh": 8e-3}  # 59 dB and more on the demo
LEAST_SHARE = 1e-4  # of a displacement of millimetres
STILL_METRES = 1e-6  # motion with the mesh: a thousandth of a pixel at 512 pixels a head


@dataclass(frozen=True)
class Pairs:
    """What driver `driver` [P] adds to Gaussian `gaussian` [P]: `values` [P,C]; any order."""

    driver: Tensor
    gaussian: Tensor
    values: Tensor


def code_reach(player: Player) -> Tensor:
    """[2,K] smallest and largest code that drives the differences; the clip's where the avatar has no limits."""
    reach = player.avatar.code_range.cpu()
    codes = player.clip.codes.expression[:, :player.num_expressions]
    seen = torch.stack([codes.amin(dim=0).clamp(max=0), codes.amax(dim=0).clamp(min=0)])
    return torch.where(reach.isfinite(), reach, seen)


def live_differences(player: Player, columns: int) -> Pairs:
    """The learnt differences, mask multiplied in, without those that change nothing visible."""
    d, reach = player.avatar.differences.to("cpu"), code_reach(player)
    values = (d.mask[:, None] * d.values)[:, :columns]
    largest = reach.abs().amax(dim=0)[d.expression.long()]
    limits = torch.full((columns,), STILL["sh"])
    for name, part in (("means", MEANS), ("quats", QUATS), ("log_scales", LOG_SCALES), ("opacity", OPACITY)):
        limits[part] = STILL[name]
    live = (values.abs() * largest[:, None] > limits).any(dim=1)
    return Pairs(d.expression.long()[live], d.gaussian.long()[live], values[live])


def visible_rows(player: Player) -> Tensor:
    """[N] bool: Gaussians whose opacity can reach what the renderer draws, whatever the codes of training."""
    avatar = player.avatar.to(torch.device("cpu"))
    d, reach = avatar.differences, code_reach(player)
    change = (d.mask * d.values[:, OPACITY.start])[:, None] * reach.T[d.expression.long()]
    highest = avatar.neutral.detach()[:, OPACITY.start].index_add(0, d.gaussian.long(), change.amax(dim=1))
    return highest > math.log(INVISIBLE / (1 - INVISIBLE))


def mesh_pairs(player: Player) -> dict[str, Pairs]:
    """motion (what expressions do with the mesh: position and quaternion), corrective, eyelid (position), sway (share
    of what a control point is displaced by)."""
    rig, binding = player.rig, player.avatar.binding
    nowhere = torch.zeros(1, 3, device=player.device)
    drive = rig.drive(torch.zeros(1, dtype=torch.int64, device=player.device), nowhere)
    motion = [torch.cat(surface_motion(binding, rows.view(1, -1, 16)), dim=2)[0].cpu() for rows in rig.maps]
    found = {"motion": motion, "corrective": [], "eyelid": []}
    for name, directions in (("corrective", rig.pose_dirs), ("eyelid", rig.eyelid_dirs)):
        for row in [] if directions is None else directions:
            found[name].append(surface_offset(binding, drive.faces, row.view(1, -1, 3))[0].cpu())
    pairs = {name: _moving(rows, 7 if name == "motion" else 3) for name, rows in found.items()}
    sway = player.avatar.sway
    if sway is None:
        return pairs | {"sway": _moving([], 1)}
    shares = sway.share.T[:, None, :, None].expand(-1, -1, -1, 3)  # as a displacement along each axis
    table = torch.stack([surface_offset(binding, drive.faces, share)[0, :, :1].cpu() for share in shares])
    driver, gaussian = (table[..., 0] > LEAST_SHARE).nonzero(as_tuple=True)
    return pairs | {"sway": Pairs(driver, gaussian, table[driver, gaussian])}


def _moving(rows: list[Tensor], width: int) -> Pairs:
    """The rows [N,width] of each driver as pairs, without those that move nothing."""
    if not rows:
        return Pairs(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0, width))
    limits = torch.tensor([STILL_METRES] * 3 + [STILL["quats"] / 10] * 4)[:width]
    table = torch.stack(rows)
    driver, gaussian = (table.abs() > limits).any(dim=2).nonzero(as_tuple=True)
    return Pairs(driver, gaussian, table[driver, gaussian])


def _pair_tables(name: str, pairs: Pairs, drivers: int, kept: Tensor) -> Tables:
    """The pairs of the `kept` [N] Gaussians, sorted by driver; halves in units of each column's largest value."""
    renumbered = torch.where(kept, kept.cumsum(0) - 1, -1)
    used = kept[pairs.gaussian]
    order = pairs.driver[used].argsort(stable=True)
    values = pairs.values[used][order]
    unit = values.abs().amax(dim=0).clamp_min(1e-12) if len(values) else values.new_ones(values.shape[1])
    starts = torch.searchsorted(pairs.driver[used][order], torch.arange(drivers + 1))
    return {f"{name}.start": starts.numpy().astype(np.int32), f"{name}.unit": unit.numpy(),
            f"{name}.gaussian": renumbered[pairs.gaussian[used][order]].numpy().astype(np.int32),
            f"{name}.values": (values / unit).numpy().astype(np.float16)}


def _bone_tables(player: Player) -> Tables:
    """How joints, skull and lower teeth follow the codes, float32; see Avatar.bones of exporting/numpy_player.py."""
    head, neutral = player.head, player.rig.posed.neutral
    anchor, joints = head.regions["back_of_head"], Joints.of(head, neutral)
    named = {
        "joints.rest": joints.rest, "joints.expression": joints.directions,
        "skull.rest": neutral[anchor], "skull.weights": head.weights[anchor],
        "skull.drive": torch.cat([head.expression_dirs[anchor], head.pose_dirs[anchor]], dim=2),
        "skull.eyelids": head.eyelids[:, anchor].permute(1, 2, 0), "teeth.weights": head.mouth.lower_weights,
        "expression_jaw": head.expression_jaw,
    }
    return {name: tensor.float().contiguous().numpy() for name, tensor in named.items()}


def compact_tables(player: Player) -> tuple[Tables, dict[str, object]]:
    """The tables of the file and the facts of its header."""
    head, columns = player.head, active_columns(player.sh_degree)
    neutral, kept = player.avatar.neutral.detach().cpu(), visible_rows(player).cpu()
    features = head.pose_dirs.shape[2]
    tables: Tables = {
        "means": neutral[kept, MEANS].numpy(), "rest": neutral[kept, MEANS.stop:columns].numpy().astype(np.float16),
        "weights": player.avatar.binding.weights.cpu()[kept].numpy().astype(np.float16),
        "code_range": player.avatar.code_range.cpu().numpy(), **_bone_tables(player),
        **_pair_tables("difference", live_differences(player, columns), player.num_expressions, kept)}
    sway = player.avatar.sway
    control = torch.zeros(CODES + player.num_expressions, 0, 3) if sway is None else sway.control.detach().cpu()
    tables["sway.control"] = control.numpy()
    drivers = {"motion": player.num_expressions, "corrective": features, "eyelid": 2, "sway": control.shape[1]}
    for name, pairs in mesh_pairs(player).items():
        tables |= _pair_tables(name, pairs, drivers[name], kept)
    facts = {"format": FORMAT_NAME, "version": FORMAT_VERSION, "name": player.name, "head": head.name,
             "sh_degree": player.sh_degree, "expression_names": list(head.expression_names),
             "driven_expressions": player.num_expressions, "parents": list(head.parents)}
    return tables, facts


def export_avatar(player: Player, settings: ExportSettings) -> Path:
    """Write the avatar in one file and return it. ValueError for flags that say a pose, which it has not."""
    refuse_pose(settings)
    target = settings.output or settings.model_path / "export" / "avatar.safetensors"
    if target.is_dir() or target.suffix != ".safetensors":
        raise ValueError(f"--output: wanted the name of a .safetensors file, got {target}")
    tables, facts = compact_tables(player)
    pairs = f"{len(tables['difference.values'])} of {len(player.avatar.differences.mask)} differences"
    log.info("kept %d of %d Gaussians, %s", len(tables["means"]), player.avatar.count, pairs)
    write_with(target, lambda path: save_file(tables, path, {"avatar": json.dumps(facts)}))
    return target
