"""Points fixed to a head's surface: their places for all frames, and how they move with every code.

A point is a barycentric mixture of three skinned vertices. Since only jaw and eyes turn, it is linear in the codes but
for one lever arm per joint, so places and exact derivatives of all frames are a few matrix products; `pose_head`
would differentiate through all 5,000 vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flame import JOINT_NAMES, Head
from flame.rotations import matrix_from_axis_angle, skew

MOVING = tuple(JOINT_NAMES.index(name) for name in ("jaw", "left_eye", "right_eye"))
JAW_ANGLES, EYE_ANGLES, LIDS = 3, 4, 2


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of T frames: expression [T,E]; jaw [T,3] rotation vector; eyes [T,4] yaw, pitch of left and right eye
    (radians, yaw to the subject's left, pitch down); lids [T,2].
    """

    expression: Tensor
    jaw: Tensor
    eyes: Tensor
    lids: Tensor


@dataclass(frozen=True, eq=False)
class Turns:
    """Rotations of jaw, left and right eye [T,3,3,3], and their derivatives [T,3,3,3] (jaw), [T,2,3,3] (each eye)."""

    rotation: Tensor
    derivative: tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class _Lever:
    """The part of n points (index) that turns with one joint: arm = rest + shape @ s + code @ c, [n,3,.]; basis: see
    `SurfacePoints`.
    """

    index: Tensor
    rest: Tensor
    shape: Tensor
    code: Tensor
    basis: Tensor


class SurfacePoints:
    """L points on a head's surface; bases in float32 on one device.

    basis [L,3,E+9+S]: how they move with expression, jaw, eyes, lids and shape while nothing turns (0 for the two
    that turn).

    triangle int64 [L], barycentric [L,3]: as in `flame.landmarks`. n_shape: how many identity directions are used.
    """

    def __init__(
        self, head: Head, triangle: np.ndarray, barycentric: np.ndarray, n_shape: int, device: torch.device | str
    ) -> None:
        head = head.to(dtype=torch.float64)
        corners, share = head.faces[torch.from_numpy(triangle)], torch.from_numpy(barycentric)
        self.n_expression = head.n_expression
        shape_dirs = head.shape_dirs[:, :, :n_shape]
        code_dirs = head.expression_dirs
        if head.has_pose_correctives:  # of jaw and eyes; the neck stays at rest
            code_dirs = torch.cat([code_dirs, head.pose_dirs[:, :, 9:]], dim=-1)

        def mixed(weights: Tensor, values: Tensor) -> Tensor:
            return torch.einsum("lc,lc...->l...", weights, values[corners])

        def stored(values: Tensor) -> Tensor:
            return values.to(device=device, dtype=torch.float32)

        self.rest, self.shape, self.code, self.lids = (
            stored(mixed(share, values))
            for values in (head.v_template, shape_dirs, code_dirs, head.eyelids.permute(1, 2, 0))
        )
        self._levers = []
        for joint in MOVING:
            weights = share * head.weights[corners, joint]
            index = torch.nonzero(weights.sum(1) > 1e-6).squeeze(1)
            total = weights.sum(1)
            parts = []
            for values in (head.v_template, shape_dirs, code_dirs):
                at_joint = torch.einsum("v,v...->...", head.joint_regressor[joint], values)
                if values is code_dirs:
                    at_joint[:, self.n_expression:] = 0  # correctives act after the joints were placed
                arm = mixed(weights, values) - total.reshape(-1, *[1] * at_joint.ndim) * at_joint
                parts.append(stored(arm[index]))
            rest, by_shape, by_code = parts
            others = rest.new_zeros(len(index), 3, JAW_ANGLES + EYE_ANGLES + LIDS)
            basis = torch.cat([by_code[..., :self.n_expression], others, by_shape], 2)
            self._levers.append(_Lever(index.to(device), rest, by_shape, by_code, basis))
        still = self.lids.new_zeros(len(triangle), 3, JAW_ANGLES + EYE_ANGLES)
        self.basis = torch.cat([self.code[..., :self.n_expression], still, self.lids, self.shape], 2)

    def __len__(self) -> int:
        return self.rest.shape[0]

    def place(self, shape: Tensor, codes: Codes, turns: Turns) -> Tensor:
        """Points [T,L,3] in head space for an identity [S] and codes of T frames."""
        code = self._code(codes, turns)
        base = self.rest + self.shape @ shape
        points = base + torch.einsum("tk,lck->tlc", code, self.code)
        points += torch.einsum("te,lce->tlc", codes.lids, self.lids)
        eye = torch.eye(3, device=points.device)
        for joint, lever in enumerate(self._levers):
            if len(lever.index):
                turned = self._arm(lever, shape, code) @ (turns.rotation[:, joint] - eye).mT
                points.index_add_(1, lever.index, turned)
        return points

    def derivative(self, rows: Tensor, shape: Tensor, codes: Codes, turns: Turns, out: Tensor) -> None:
        """rows [T,L,K,3] @ d place / d (expression, jaw, eyes, lids, shape), written to out [T,L,K,E+3+4+2+S], or
        without the shape's to [T,L,K,E+3+4+2].

        Rows come first because K (one grey value, two pixel coordinates) is less than three.
        """
        n, width = self.n_expression, out.shape[-1]
        code, eye = self._code(codes, turns), torch.eye(3, device=rows.device)
        basis = self.basis[:, :, None, :width]
        torch.mul(rows[..., :1], basis[:, 0], out=out)
        for axis in (1, 2):
            out.addcmul_(rows[..., axis:axis + 1], basis[:, axis])
        joints = out[..., n:n + JAW_ANGLES + EYE_ANGLES]
        columns = torch.arange(joints.shape[-1]).split([change.shape[1] for change in turns.derivative])
        by_feature = []
        for joint, (lever, change, column) in enumerate(zip(self._levers, turns.derivative, columns, strict=True)):
            own = rows[:, lever.index]
            turned = own @ (turns.rotation[:, joint] - eye)[:, None]
            out.index_add_(1, lever.index, _along(turned, lever.basis[..., :width]))
            swing = torch.einsum("tkab,tlb->tlak", change, self._arm(lever, shape, code))
            joints[:, lever.index, :, column[0]:column[-1] + 1] += own @ swing
            by_feature.append((lever.index, turned, lever.code[..., n:]))
        if code.shape[1] > n:  # the chain through the pose correctives
            effect = _along(rows, self.code[..., n:])
            for index, turned, basis in by_feature:
                effect.index_add_(1, index, _along(turned, basis))
            for joint, (change, column) in enumerate(zip(turns.derivative, columns, strict=True)):
                by_angle = effect[..., 9 * joint:9 * joint + 9] @ change.flatten(2).mT[:, None]
                joints[..., column[0]:column[-1] + 1] += by_angle

    def _code(self, codes: Codes, turns: Turns) -> Tensor:
        if self.code.shape[-1] == self.n_expression:
            return codes.expression
        feature = (turns.rotation - torch.eye(3, device=turns.rotation.device)).flatten(1)
        return torch.cat([codes.expression, feature], dim=1)

    @staticmethod
    def _arm(lever: _Lever, shape: Tensor, code: Tensor) -> Tensor:
        return lever.rest + lever.shape @ shape + torch.einsum("tk,lck->tlc", code, lever.code)


def pixel_by_camera(camera: Tensor, focal: float) -> Tensor:
    """Derivative of the projection by camera coordinates: [...,3] -> [...,2,3]."""
    x, y, z = camera.unbind(-1)
    inverse, zero = focal / z.clamp_min(1e-3), torch.zeros_like(z)
    rows = [inverse, zero, -inverse * x / z.clamp_min(1e-3), zero, inverse, -inverse * y / z.clamp_min(1e-3)]
    return torch.stack(rows, -1).reshape(*z.shape, 2, 3)


def camera_by_pose(camera: Tensor, t: Tensor) -> Tensor:
    """Derivative of camera coordinates [C,L,3] by a frame's first `bundle.POSE` unknowns: [C,L,3,6]."""
    sideways = torch.diag_embed(t[:, 2:].expand(-1, 3))[..., :2]
    by_bearing = torch.cat([sideways, t[..., None]], -1)[:, None]
    return torch.cat([-skew(camera - t[:, None]), by_bearing.expand(-1, camera.shape[1], -1, -1)], -1)


def turns_of(codes: Codes) -> Turns:
    """Rotations of jaw and eyes and their exact derivatives."""
    jaw = matrix_from_axis_angle(codes.jaw)
    by_jaw = skew(_left_jacobian(codes.jaw).mT) @ jaw[:, None]
    left, by_left = gaze_rotation(codes.eyes[:, :2])
    right, by_right = gaze_rotation(codes.eyes[:, 2:])
    return Turns(torch.stack([jaw, left, right], dim=1), (by_jaw, by_left, by_right))


def _left_jacobian(vector: Tensor) -> Tensor:
    """[T,3] -> [T,3,3]: column k is the turn, in the outer axes, that a change of component k adds (Sola et al. 2018,
    "A micro Lie theory", eq. 145).
    """
    squared = (vector * vector).sum(-1)[:, None, None]
    # below 0.1 rad the quotients cancel in float32; the next terms of the series are below 1e-7
    small = squared < 1e-2
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    first = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / angle**2)
    second = torch.where(small, 1 / 6 - squared / 120, (angle - angle.sin()) / angle**3)
    cross = skew(vector)
    return torch.eye(3, device=vector.device) + first * cross + second * (cross @ cross)


def gaze_rotation(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Yaw, pitch [T,2] -> R_y(yaw) R_x(pitch) [T,3,3] and its derivatives [T,2,3,3]: an eye that does not roll."""
    yaw, pitch = angles.unbind(-1)
    (ry, dry), (rx, drx) = _about_y(yaw), _about_x(pitch)
    return ry @ rx, torch.stack([dry @ rx, ry @ drx], dim=1)


def _about_y(angle: Tensor) -> tuple[Tensor, Tensor]:
    c, s, o = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _matrix(c, o, s, o, o + 1, o, -s, o, c), _matrix(-s, o, c, o, o, o, -c, o, -s)


def _about_x(angle: Tensor) -> tuple[Tensor, Tensor]:
    c, s, o = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _matrix(o + 1, o, o, o, c, -s, o, s, c), _matrix(o, o, o, o, -s, -c, o, c, -s)


def _matrix(*entries: Tensor) -> Tensor:
    return torch.stack(entries, dim=-1).reshape(-1, 3, 3)


def _along(rows: Tensor, basis: Tensor) -> Tensor:
    """[T,L,K,3] x [L,3,N] -> [T,L,K,N]."""
    return torch.einsum("tlkc,lcn->tlkn", rows, basis)
