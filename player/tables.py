"""What `drive_frames` needs of a rig and its avatar: sums of products of constants, formed once in double precision."""

from __future__ import annotations

import torch
from blendshape_ops import DriveTables
from torch import Tensor

from flame import Head
from scene.avatar import Avatar
from scene.rig import Rig


def drive_tables(rig: Rig, avatar: Avatar) -> DriveTables:
    """The tables (float32, on the rig's device) with which `drive_frames` equals `Rig.with_codes(...).drive(...)`.

    Triangles that carry no Gaussian of `avatar` get zero maps. Codes are limited as `Avatar.pose` limits them.
    """
    head, device = rig.head, rig.device
    neutral = rig.posed.neutral.double()
    basis = head.expression_dirs.double()
    if rig.pose_dirs is not None:
        basis = torch.cat([basis, head.pose_dirs.double()], dim=2)
    floats = {"lower_weights": head.mouth.lower_weights, "code_range": avatar.code_range,
              **_linear_part(head, neutral, basis), **_anchor_part(head, neutral)}
    offsets, expression, values = _sparse_maps(rig, avatar)
    return DriveTables(
        **{name: value.float().contiguous().to(device) for name, value in floats.items()},
        parents=torch.tensor(head.parents, dtype=torch.int32, device=device),
        map_offsets=offsets, map_expression=expression, map_values=values,
        faces=rig.faces, num_expressions=head.n_expression,
        pose_dirs=rig.pose_dirs, eyelid_dirs=rig.eyelid_dirs)


def _weighted_anchor(head: Head, neutral: Tensor) -> tuple[Tensor, Tensor]:
    """share * (rest - mean, 1) [n,4] of the skull's anchor, and the same times each joint's weight [n,J,4]."""
    anchor = head.regions["back_of_head"]
    rest = neutral[anchor]
    centred = torch.cat([rest - rest.mean(dim=0), torch.ones(len(rest), 1, dtype=rest.dtype)], dim=1) / len(rest)
    return centred, head.weights[anchor].double()[:, :, None] * centred[:, None]


def _linear_part(head: Head, neutral: Tensor, basis: Tensor) -> dict[str, Tensor]:
    """Rest joints and anchor moments: their values at rest, and per coefficient of `basis` [V,3,X]."""
    anchor = head.regions["back_of_head"]
    _, weighted = _weighted_anchor(head, neutral)
    regressor = head.joint_regressor.double()
    joint_dirs = torch.einsum("jv,vce->ejc", regressor, head.expression_dirs.double()).flatten(1)
    unmoved = joint_dirs.new_zeros(basis.shape[2] - len(joint_dirs), joint_dirs.shape[1])  # correctives follow joints
    moment_dirs = torch.einsum("njc,nax->xjac", weighted, basis[anchor]).flatten(1)
    moment = torch.einsum("njc,na->jac", weighted, neutral[anchor]).flatten()
    return {"base": torch.cat([(regressor @ neutral).flatten(), moment]),
            "linear": torch.cat([torch.cat([joint_dirs, unmoved]), moment_dirs], dim=1)}


def _anchor_part(head: Head, neutral: Tensor) -> dict[str, Tensor]:
    anchor = head.regions["back_of_head"]
    centred, weighted = _weighted_anchor(head, neutral)
    lids = torch.einsum("nc,lna->lac", centred, head.eyelids[:, anchor].double())
    return {"anchor_weights": weighted.sum(dim=0), "anchor_lids": lids, "anchor_mean": neutral[anchor].mean(dim=0)}


def _sparse_maps(rig: Rig, avatar: Avatar) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets [F+1], expressions [Q] and values [Q,16] of the triangle maps that are not zero and carry a Gaussian."""
    maps = rig.maps.unflatten(1, (-1, 16))
    carries = torch.zeros(maps.shape[1], dtype=torch.bool, device=maps.device)
    carries[avatar.binding.triangle[avatar.binding.triangle >= 0].long()] = True
    triangle, expression = ((maps != 0).any(dim=2) & carries).T.nonzero(as_tuple=True)
    counts = torch.bincount(triangle, minlength=maps.shape[1])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return offsets.int(), expression.int(), maps[expression, triangle].contiguous()
