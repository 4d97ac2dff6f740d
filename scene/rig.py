"""Everything that moves the Gaussians and depends on tracking alone, for all frames at once.

The expression part of the motion comes from per-triangle deformation maps (docs/method.md, section 4): for each
expression k, the affine map that takes a neutral triangle, completed by an apex along its normal, to its deformed
place. They are linear in the codes, so a frame's maps are one product codes x maps.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace

import torch
from blendshape_ops import Drive
from torch import Tensor

from flame import Head, Joints, pose_feature, pose_head
from flame.rotations import polar3, quat_from_matrix

SKULL_BONE, JAW_BONE = -2, -1  # extra bones after the head's joints: rigid skull (upper teeth), lower teeth
REST_6D = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Codes:
    """Tracking of T frames as float32 tensors, cut or padded to the head's directions; one shape for the clip."""

    shape: Tensor       # [S]
    expression: Tensor  # [T,E]
    jaw: Tensor         # [T,6]
    eyes: Tensor        # [T,12]
    eyelids: Tensor     # [T,2]
    neck: Tensor | None = None  # [T,6]; None: at rest, as in data sets that track none
    sway: Tensor | None = None  # [T,6] of the pose, see scene/sway.py; None: that of the mean pose, which is 0

    def __len__(self) -> int:
        return len(self.expression)

    def to(self, device: torch.device | str) -> Codes:
        """The same on `device`."""
        return replace(self._each(lambda code: code.to(device)), shape=self.shape.to(device))

    def at(self, frames: slice | Tensor) -> Codes:
        """The codes of some frames (slice, or int64 indices on the codes' device)."""
        return self._each(lambda code: code[frames])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Codes:
        return Codes(self.shape, change(self.expression), change(self.jaw), change(self.eyes), change(self.eyelids),
                     *(None if code is None else change(code) for code in (self.neck, self.sway)))


@dataclass(frozen=True)
class CodeChange:
    """What is added to the codes of B frames: expression [B,K] (the rig's), jaw [B,6], eyes [B,12], eyelids [B,2].

    sway: [B,6], or None for nothing. 6D rotations need no care: their rows are made orthonormal after the addition.
    """

    expression: Tensor
    jaw: Tensor
    eyes: Tensor
    eyelids: Tensor
    sway: Tensor | None = None

    def swayed(self, sway: Tensor | None) -> Tensor | None:
        """The codes `sway` [B,6] of the pose with the change; as they are where there are none, or no change."""
        return sway if sway is None or self.sway is None else sway + self.sway.to(sway.device)


def triangle_frames(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Edge frame E [...,F,3,3] (columns v1-v0, v2-v0, apex-v0) and origin v0 [...,F,3] of each triangle.

    The apex is centroid + n / sqrt|n| with n the cross product of the edges.
    """
    v0, v1, v2 = (vertices[..., faces[:, i], :] for i in range(3))
    normal = torch.linalg.cross(v1 - v0, v2 - v0)
    length = normal.norm(dim=-1, keepdim=True).clamp_min(1e-20)
    apex = (v0 + v1 + v2) / 3 + normal / length.sqrt()
    return torch.stack([v1 - v0, v2 - v0, apex - v0], dim=-1), v0


def expression_triangle_maps(head: Head, neutral: Tensor, count: int) -> Tensor:
    """Maps of the first `count` expressions at coefficient 1: [K,F,16] = [Q - I (9, row-major), b (3), q - 1 (4)].

    neutral: [V,3] vertices of the subject at rest; the maps are computed and returned on its device. A zero map where
    the expression leaves the triangle still; a triangle without area moves with its first corner.
    """
    device, neutral = neutral.device, neutral.double()
    faces, directions = head.faces.to(device), head.expression_dirs[:, :, :count].to(device)
    rest, origin = triangle_frames(neutral, faces)
    solvable = torch.linalg.det(rest).abs() > 1e-18  # m^3: below, the inverse is rounding noise (edges under 1 um)
    identity = torch.eye(3, dtype=rest.dtype, device=device)
    inverse = torch.linalg.inv(torch.where(solvable[:, None, None], rest, identity))
    maps = torch.zeros(count, len(faces), 16, device=device)
    moves = (directions != 0).any(dim=1)[faces].any(dim=1)
    for k in range(count):
        some = moves[:, k].nonzero()[:, 0]  # most expressions are local
        moved, moved_origin = triangle_frames(neutral + directions[:, :, k].double(), faces[some])
        linear = torch.where(solvable[some, None, None], moved @ inverse[some], identity)
        offset = moved_origin - (linear @ origin[some, :, None])[..., 0]
        quaternion = quat_from_matrix(polar3(linear))
        quaternion = torch.where(quaternion[:, :1] < 0, -quaternion, quaternion)
        quaternion[:, 0] -= 1
        maps[k, some] = torch.cat([(linear - identity).flatten(1), offset, quaternion], dim=1).float()
    return maps


class Rig:
    """Drives an avatar: built once for a head and an identity, with the codes of T frames.

    Tensors live on `device`. Memory per frame is small (bones and codes); vertex offsets and triangle maps are formed
    for the batch asked for. `posed` is the head mesh of all frames (CPU). `with_codes` gives the rig of other codes.
    """

    def __init__(self, head: Head, codes: Codes, num_expressions: int, device: torch.device) -> None:
        self.head, self.device = head, device
        self.num_expressions = min(num_expressions, head.n_expression)
        self.faces = head.faces.int().to(device)
        self.pose_dirs = head.pose_dirs.flatten(0, 1).T.contiguous().to(device) if head.has_pose_correctives else None
        self.eyelid_dirs = head.eyelids.flatten(1).to(device) if bool(head.eyelids.any()) else None
        self._take(codes)
        neutral = self.posed.neutral.to(device)
        self.maps = expression_triangle_maps(head, neutral, self.num_expressions).flatten(1)

    def with_codes(self, codes: Codes) -> Rig:
        """The rig of other codes (any device) for the same identity: `codes.shape` is not looked at.

        Shares all that does not depend on the codes. Raises ValueError naming the code that does not fit the head.
        """
        other = copy(self)
        other._take(replace(codes.to(self.codes.shape.device), shape=self.codes.shape))
        return other

    def _take(self, codes: Codes) -> None:
        posed = pose_head(self.head, codes.shape, codes.expression, codes.jaw, codes.eyes, codes.eyelids, codes.neck)
        self.codes, self.posed = codes, posed
        self._moving: _MovingJoints | None = None
        self.beta = codes.expression[:, :self.num_expressions].contiguous().to(self.device)
        extra = torch.stack([posed.head_rigid, posed.lower_teeth], dim=1)
        self.bones = torch.cat([posed.joint_transforms, extra], dim=1).to(self.device)
        self._pose_feature = posed.pose_feature.to(self.device) if self.pose_dirs is not None else None
        self._eyelids = codes.eyelids.to(self.device) if self.eyelid_dirs is not None else None
        self._sway = None if codes.sway is None else codes.sway.to(self.device)

    def drive(self, frames: Tensor, camera_centers: Tensor) -> Drive:
        """What `blend_pose_color` needs for frames [B] (int64), with the camera positions [B,3] of the batch."""
        feature = None if self._pose_feature is None else self._pose_feature[frames]
        eyelids = None if self._eyelids is None else self._eyelids[frames]
        sway = None if self._sway is None else self._sway[frames]
        return self._assemble(self.beta[frames], self.bones[frames], feature, eyelids, sway, camera_centers)

    def drive_changed(self, frames: Tensor, change: CodeChange, camera_centers: Tensor) -> Drive:
        """`drive` with `change` [B,...] added to the codes of frames [B]; differentiable in `change` and the centres.

        The skull's rigid motion stays that of the unchanged codes: only the neck moves the back of the head.
        """
        if self._moving is None:
            self._moving = _MovingJoints.of(self)
        codes = self._moving.codes.at(frames)
        rest = codes.expression.shape[1] - self.num_expressions
        expression = codes.expression + torch.nn.functional.pad(change.expression, (0, rest))
        eyelids = codes.eyelids + change.eyelids
        assert codes.neck is not None
        rotations, _, transforms = self._moving.joints.pose(expression, codes.neck, codes.jaw + change.jaw,
                                                            codes.eyes + change.eyes)
        lower = torch.einsum("j,tjab->tab", self._moving.lower_weights, transforms)
        bones = torch.cat([transforms, self.bones[frames, SKULL_BONE][:, None], lower[:, None]], dim=1)
        feature = pose_feature(rotations) if self.pose_dirs is not None else None
        return self._assemble(expression[:, :self.num_expressions], bones, feature,
                              eyelids if self.eyelid_dirs is not None else None, change.swayed(codes.sway),
                              camera_centers)

    def _assemble(self, beta: Tensor, bones: Tensor, feature: Tensor | None, eyelids: Tensor | None,
                  sway: Tensor | None, camera_centers: Tensor) -> Drive:
        count = len(beta)
        maps = (beta @ self.maps).view(count, -1, 16)
        pre = post = None
        if feature is not None and self.pose_dirs is not None:
            pre = (feature @ self.pose_dirs).view(count, -1, 3)
        if eyelids is not None and self.eyelid_dirs is not None:
            post = (eyelids @ self.eyelid_dirs).view(count, -1, 3)
        return Drive(beta=beta, triangle_maps=maps, bones=bones, camera_centers=camera_centers,
                     faces=self.faces, pre_offsets=pre, post_offsets=post, sway=sway)


@dataclass(frozen=True)
class _MovingJoints:
    """Codes of all frames (the neck included), joints and weights [J] of the lower teeth, on a rig's device."""

    codes: Codes
    joints: Joints
    lower_weights: Tensor

    @staticmethod
    def of(rig: Rig) -> _MovingJoints:
        head, codes, like = rig.head, rig.codes, rig.bones
        neck = codes.neck if codes.neck is not None else codes.jaw.new_tensor(REST_6D).repeat(len(codes), 1)
        joints = Joints.of(head, rig.posed.neutral.to(head.joint_regressor))
        return _MovingJoints(replace(codes, neck=neck)._each(lambda code: code.to(like)), joints.to(like),
                             head.mouth.lower_weights.to(like))
