"""Linear blend skinning of a head for all frames at once: joints, correctives, vertices, head and jaw motion.

The order of operations is FLAME's (Li et al. 2017, "Learning a model of facial shape and expression from 4D scans"):
directions, joints, pose correctives, skinning, and then the eyelid offsets of the public tracker, which are added
after skinning.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from flame.head import Head
from flame.rotations import matrix_from_6d, rigid_align

CHUNK_BYTES = 64 * 2**20
"""Bound for one chunk's temporaries; the skinning matrices of 5,023 vertices take 0.24 MB a frame in float32."""

_IDENTITY_6D = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class PosedHead:
    """The motion of a head over T frames. Transforms are ready; per-vertex arrays are computed when first asked for.

    head: in the dtype and on the device of the codes. neutral [V,3]: identity alone, every other code at rest.
    expression [T,E], eyelids [T,2]: the codes. joints [T,J,3]: joint positions before posing.
    joint_transforms [T,J,3,4]: A = [R|t], rest to posed, per joint. pose_feature [T,9*(J-1)]: R_j - I, j >= 1,
    row-major. head_rigid [T,3,4]: rigid motion of the skull, neutral to frame (upper teeth). lower_teeth [T,3,4]: the
    blend of the joint transforms at the lower teeth (rigid only when one joint carries them alone).

    Each of `vertices`, `pose_offsets` and `eyelid_offsets` is [T,V,3] (36 MB for 600 frames of FLAME in float32), kept
    once computed; `*_at(frames)` computes some frames only and keeps nothing.
    """

    head: Head
    neutral: Tensor
    expression: Tensor
    eyelids: Tensor
    joints: Tensor
    joint_transforms: Tensor
    pose_feature: Tensor
    head_rigid: Tensor
    lower_teeth: Tensor

    def __len__(self) -> int:
        return self.expression.shape[0]

    @cached_property
    def vertices(self) -> Tensor:
        """Posed vertices [T,V,3], eyelids included."""
        return self.vertices_at(slice(None))

    @cached_property
    def pose_offsets(self) -> Tensor:
        """Pose correctives [T,V,3], to be added before skinning."""
        return self.pose_offsets_at(slice(None))

    @cached_property
    def eyelid_offsets(self) -> Tensor:
        """Eyelid offsets [T,V,3], to be added after skinning."""
        return self.eyelid_offsets_at(slice(None))

    def vertices_at(self, frames: slice | Tensor) -> Tensor:
        """`vertices` of some frames (slice or int64 indices), [T',V,3], in chunks of at most `CHUNK_BYTES`."""
        return posed_vertices(
            self.head, self.neutral, self.expression[frames], self.pose_feature[frames],
            self.joint_transforms[frames], self.eyelids[frames],
        )  # fmt: skip

    def pose_offsets_at(self, frames: slice | Tensor) -> Tensor:
        """`pose_offsets` of some frames, [T',V,3]."""
        return torch.einsum("tp,vcp->tvc", self.pose_feature[frames], self.head.pose_dirs)

    def eyelid_offsets_at(self, frames: slice | Tensor) -> Tensor:
        """`eyelid_offsets` of some frames, [T',V,3]."""
        return torch.einsum("te,evc->tvc", self.eyelids[frames], self.head.eyelids)


def pose_head(
    head: Head,
    shape: Tensor,
    expression: Tensor,
    jaw: Tensor,
    eyes: Tensor,
    eyelids: Tensor,
    neck: Tensor | None = None,
) -> PosedHead:
    """Pose a head for T frames.

    shape [S] (one identity for all frames); expression [T,E]; jaw [T,6] and neck [T,6] (None: identity) as 6D
    rotations; eyes [T,12]: left, then right 6D rotation; eyelids [T,2]: left, right. All floating, of one dtype and
    device, which the result takes over. Differentiable in every code (first order; see `rigid_align`).
    Codes of another length than the head's must be fitted first (`flame.codes.fit_code`).

    Raises ValueError naming the argument when a shape, dtype or device does not fit.
    """
    if neck is None:
        neck = jaw.new_tensor(_IDENTITY_6D).expand(jaw.shape[0], 6)
    _check_codes(head, shape, dict(expression=expression, jaw=jaw, eyes=eyes, eyelids=eyelids, neck=neck))
    head = head.to(device=shape.device, dtype=shape.dtype)
    neutral = head.v_template + head.shape_dirs @ shape
    rotations, joints, transforms = Joints.of(head, neutral).pose(expression, neck, jaw, eyes)
    feature = pose_feature(rotations)
    anchor = head.regions["back_of_head"]
    moved = posed_vertices(head, neutral, expression, feature, transforms, eyelids, anchor)
    return PosedHead(
        head=head,
        neutral=neutral,
        expression=expression,
        eyelids=eyelids,
        joints=joints,
        joint_transforms=transforms,
        pose_feature=feature,
        head_rigid=rigid_align(neutral[anchor], moved),
        lower_teeth=torch.einsum("j,tjab->tab", head.mouth.lower_weights, transforms),
    )


@dataclass(frozen=True, eq=False)
class Joints:
    """What turns codes into joint transforms. The joint regressor is linear, so no vertex is formed."""

    rest: Tensor  # [J,3], of one identity
    directions: Tensor  # [J,3,E], their motion with the expressions
    parents: tuple[int, ...]

    @staticmethod
    def of(head: Head, neutral: Tensor) -> Joints:
        """The joints of the identity whose neutral vertices are `neutral` [V,3]."""
        directions = torch.einsum("jv,vce->jce", head.joint_regressor, head.expression_dirs)
        return Joints(head.joint_regressor @ neutral, directions, head.parents)

    def to(self, like: Tensor) -> Joints:
        """The same with the dtype and on the device of `like`."""
        return Joints(self.rest.to(like), self.directions.to(like), self.parents)

    def pose(self, expression: Tensor, neck: Tensor, jaw: Tensor, eyes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotations [T,J-1,3,3], places before posing [T,J,3] and transforms [T,J,3,4] of the joints; differentiable.

        Codes as `pose_head` takes them.
        """
        rotations = matrix_from_6d(torch.cat([neck, jaw, eyes], dim=1).unflatten(1, (4, 6)))
        joints = self.rest + torch.einsum("jce,te->tjc", self.directions, expression)
        return rotations, joints, joint_transforms(rotations, joints, self.parents)


def pose_feature(rotations: Tensor) -> Tensor:
    """R_j - I [T,9*(J-1)] of rotations [T,J-1,3,3]: what drives the pose correctives."""
    return (rotations - torch.eye(3).to(rotations)).flatten(1)


def joint_transforms(rotations: Tensor, joints: Tensor, parents: tuple[int, ...]) -> Tensor:
    """A = [R|t] [T,J,3,4], rest to posed, of every joint; the root stays at rest.

    rotations [T,J-1,3,3] of joints 1.. (neck, jaw, eyes), joints [T,J,3] before posing. Differentiable in both.
    """
    rest = joints[:, 1:, :, None]
    local = torch.cat([rotations, rest - rotations @ rest], dim=-1)  # a turn about the joint's place at rest
    identity = torch.eye(3, 4, dtype=local.dtype, device=local.device)
    placed, start = identity.expand(len(local), 1, 3, 4), 0
    for parent, siblings in groupby(parents[1:]):
        end = start + len(list(siblings))
        moved = local[:, start:end]
        if parent:
            above = placed[:, parent, None]
            moved = above[..., :3] @ moved + torch.nn.functional.pad(above[..., 3:], (3, 0))
        placed, start = torch.cat([placed, moved], dim=1), end
    return placed


def posed_vertices(
    head: Head,
    neutral: Tensor,
    expression: Tensor,
    feature: Tensor,
    transforms: Tensor,
    eyelids: Tensor,
    subset: Tensor | None = None,
) -> Tensor:
    """Vertices [T,V,3], or [T,len(subset),3] for some vertex ids, a bounded number of frames at a time.

    neutral [V,3]; expression [T,E]; feature [T,9*(J-1)], see `pose_feature`; transforms [T,J,3,4], see
    `joint_transforms`; eyelids [T,2]. Differentiable in all of them.
    """
    pick = slice(None) if subset is None else subset
    rest, weights, lids = neutral[pick], head.weights[pick], head.eyelids[:, pick]
    basis, codes = head.expression_dirs[pick], expression
    if head.has_pose_correctives:
        basis, codes = torch.cat([basis, head.pose_dirs[pick]], dim=-1), torch.cat([codes, feature], dim=1)
    frame_bytes = max(1, rest.shape[0] * 12 * rest.element_size())
    step = max(1, CHUNK_BYTES // frame_bytes)
    chunks = []
    for start in range(0, max(1, len(expression)), step):
        part = slice(start, start + step)
        shaped = rest + torch.einsum("tk,vck->tvc", codes[part], basis)
        blended = torch.einsum("vj,tjab->tvab", weights, transforms[part])
        posed = (blended[..., :3] * shaped[..., None, :]).sum(-1) + blended[..., 3]
        chunks.append(posed + torch.einsum("te,evc->tvc", eyelids[part], lids))
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)


def _check_codes(head: Head, shape: Tensor, codes: dict[str, Tensor]) -> None:
    if not shape.is_floating_point() or tuple(shape.shape) != (head.n_shape,):
        raise ValueError(f"shape: wanted floating [{head.n_shape}], got {shape.dtype} {list(shape.shape)}")
    frames = codes["expression"].shape[0]
    widths = dict(expression=head.n_expression, jaw=6, eyes=12, eyelids=2, neck=6)
    for name, code in codes.items():
        if tuple(code.shape) != (frames, widths[name]):
            raise ValueError(f"{name}: wanted [{frames}, {widths[name]}] for {frames} frames, got {list(code.shape)}")
        if code.dtype != shape.dtype or code.device != shape.device:
            wanted, got = f"{shape.dtype} on {shape.device}", f"{code.dtype} on {code.device}"
            raise ValueError(f"{name}: wanted {wanted} like shape, got {got}")
