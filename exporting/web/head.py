"""What a browser needs of the head model: how vertices, triangles and bones follow the codes of one subject.

Only differences that move something are kept: rows of (column, value), with the number of pairs of each row. Columns
are the first K expressions, then, where the head has pose correctives, the 9 (J-1) pose features; of the sway they are
its control points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporting.web.coding import Section, quantized
from flame import Head, Joints
from player.player import Player
from scene.sway import Sway

Table = NDArray[Any]

OFFSET_STEP, TURN_STEP = 1e-5, 1e-3  # metres: a fiftieth of a pixel where 512 show a head; 0.1 degrees
CONTROL_STEP, SHARE_STEP = 2e-6, 2e-3  # metres for a code of 1; of displacements of millimetres
_FOLLOWS_METRES = 1e-5  # a hundredth of a millimetre; maps in float32 are off by 3e-8 m on the demo


def head_section(player: Player) -> Section:
    """The head's tables; ValueError when the Gaussians do not follow its mesh."""
    head, rig, count = player.head, player.rig, player.num_expressions
    faces, neutral = rig.faces.cpu(), rig.posed.neutral
    maps = rig.maps.cpu().view(count, len(faces), 16)
    directions = _vertex_directions(player, maps)
    _check_follows_mesh(player, maps, directions)
    if rig.pose_dirs is not None:
        directions = torch.cat([directions, _by_vertex(rig.pose_dirs)], dim=2)
    lids = torch.zeros(len(directions), 3, 2) if rig.eyelid_dirs is None else _by_vertex(rig.eyelid_dirs)
    section = Section()
    section.add_whole("faces", faces.numpy().astype(np.int64), delta=True)
    _add_sparse(section, "vertex", directions, OFFSET_STEP)
    _add_sparse(section, "lid", lids, OFFSET_STEP)
    _add_sparse(section, "turn", maps[..., 12:].permute(1, 2, 0), TURN_STEP)
    for name, table in {**_anchor_tables(head, neutral), **_joint_tables(head, neutral)}.items():
        section.add_single(name, table)
    if player.avatar.sway is not None:
        _add_sway(section, player.avatar.sway)
    return section


def _add_sway(section: Section, sway: Sway) -> None:
    """swayControl [(6+K) C, 3]: how control points move; rows of shares of them for each vertex."""
    control = quantized(sway.control.detach().cpu().flatten(0, 1).numpy(), CONTROL_STEP)
    section.add_steps("swayControl", control, np.full(3, CONTROL_STEP))
    _add_sparse(section, "sway", sway.share.cpu()[:, None], SHARE_STEP)


def _vertex_directions(player: Player, maps: Tensor) -> Tensor:
    """[V,3,K]: how expressions move what `rig.faces` names: the head's vertices.

    In a model of the reference every Gaussian is a triangle of its own, whose corners are one point; then the point's.
    """
    faces = player.rig.faces.cpu().long()
    if not bool((faces == faces[:, :1]).all()):
        return player.head.expression_dirs[..., :len(maps)]
    directions = torch.zeros(int(faces.max()) + 1, 3, len(maps))
    directions[faces[:, 0]] = maps[..., 9:12].permute(1, 2, 0)
    return directions


def _by_vertex(offsets: Tensor) -> Tensor:
    """[codes, V*3] -> [V,3,codes]."""
    return offsets.cpu().view(len(offsets), -1, 3).permute(1, 2, 0)


def _add_sparse(section: Section, name: str, directions: Tensor, step: float) -> None:
    """directions [rows, width, columns] -> {name}Count [rows], {name}Column [M], {name}Value [M, width]."""
    by_column = quantized(directions.permute(0, 2, 1).numpy(), step)
    row, column = by_column.any(axis=2).nonzero()
    section.add_whole(f"{name}Count", np.bincount(row, minlength=len(by_column)))
    section.add_whole(f"{name}Column", column)
    section.add_steps(f"{name}Value", by_column[row, column], np.full(by_column.shape[2], step))


def _anchor_tables(head: Head, neutral: Tensor) -> dict[str, Table]:
    """The vertices whose motion is the skull's: neutral [A,3], directions [A,3,E+36], weights [A,J], lids [A,3,2]."""
    anchor = head.regions["back_of_head"]
    directions = torch.cat([head.expression_dirs[anchor], head.pose_dirs[anchor]], dim=-1)
    return {"anchorNeutral": _single(neutral[anchor]), "anchorDirections": _single(directions),
            "anchorWeights": _single(head.weights[anchor]),
            "anchorLids": _single(head.eyelids[:, anchor].permute(1, 2, 0))}


def _joint_tables(head: Head, neutral: Tensor) -> dict[str, Table]:
    """Joint positions at rest [J,3], how expressions move them [J,3,E], the joints' share in the lower teeth [J]."""
    joints = Joints.of(head, neutral)
    return {"jointNeutral": _single(joints.rest), "jointDirections": _single(joints.directions),
            "lowerTeethWeights": _single(head.mouth.lower_weights), "expressionJaw": _single(head.expression_jaw)}


def _check_follows_mesh(player: Player, maps: Tensor, directions: Tensor) -> None:
    """The page moves a Gaussian by its triangle's corners; that must be what the avatar's triangle maps say."""
    binding = player.avatar.binding
    bound = (binding.triangle >= 0).nonzero()[:, 0].cpu()
    triangle, anchor = binding.triangle.cpu()[bound].long(), binding.anchor.cpu()[bound]
    corners, weights = player.rig.faces.cpu()[triangle].long(), binding.barycentric.cpu()[bound]
    for k, rows in enumerate(maps):
        own = rows[triangle]
        by_map = (own[:, :9].view(-1, 3, 3) @ anchor[..., None])[..., 0] + own[:, 9:12]
        by_corner = (directions[..., k][corners] * weights[..., None]).sum(dim=1)
        off = float((by_map - by_corner).abs().max()) if len(bound) else 0.0
        if off > _FOLLOWS_METRES:
            raise ValueError(f"web: the Gaussians of {player.name} do not follow the mesh of head {player.head.name} "
                             f"(expression {k}: {off:.2g} m apart, wanted at most {_FOLLOWS_METRES:g}); "
                             "such an avatar cannot be shown on the page")


def _single(tensor: Tensor) -> Table:
    return tensor.contiguous().numpy().astype("<f4")
