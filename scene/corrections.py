"""What a correction of the tracking is, and what it does to cameras and codes.

A correction is a row of numbers: a turn of the head against the camera (Cayley vector, nearly the rotation vector,
about the head's centre) and a shift (metres), and what is added to the expression codes, jaw, eyes and eyelids, and
where it is estimated from a picture to the pose's codes of the sway (scene/sway.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flame import Head
from flame.rotations import matrix_from_6d, matrix_from_cayley, matrix_to_6d
from gaussian_renderer import Cameras
from scene.rig import CodeChange
from scene.sway import CODES, Sway

HEAD_RADIUS, JAW_RADIUS, EYE_RADIUS = 0.1, 0.1, 0.012  # metres: lever of a turn


@dataclass(frozen=True)
class Columns:
    """Where a correction's parts stand in its row of `width` numbers; whether `sway`'s codes are among them."""

    expressions: int
    sway: bool = False

    @property
    def sizes(self) -> list[int]:
        """Columns of turn, shift, expression, jaw, eyes, eyelids, and of the sway if it is among them."""
        return [3, 3, self.expressions, 6, 12, 2, *[CODES] * self.sway]

    @property
    def width(self) -> int:
        """Columns altogether."""
        return sum(self.sizes)

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor, CodeChange]:
        """Turn [...,3], shift [...,3] and codes of rows [...,width]."""
        turn, shift, *codes = rows.split(self.sizes, dim=-1)
        return turn, shift, CodeChange(*codes)

    def reach(self, head: Head, sway: Sway | None = None) -> Tensor:
        """Metres that the surface moves with a unit of each column [width] (what moves farthest). CPU.

        sway: of the avatar, where its codes are among the columns.
        """
        expression = head.expression_dirs[:, :, :self.expressions].norm(dim=1).amax(dim=0)
        lids = head.eyelids.norm(dim=2).amax(dim=1)
        parts = [torch.full((3,), HEAD_RADIUS), torch.ones(3), expression, torch.full((6,), JAW_RADIUS),
                 torch.full((12,), EYE_RADIUS), lids]
        if self.sway:
            assert sway is not None
            parts.append(sway.control[:CODES].detach().norm(dim=2).amax(dim=1).cpu())
        return torch.cat([part.float() for part in parts])


@dataclass(frozen=True)
class Axes:
    """In whose camera's axes corrections of the head are told, for B pictures.

    reference [B,3,3]: world to those axes. own [B,3,3]: from them to each picture's own camera.
    """

    reference: Tensor
    own: Tensor

    @staticmethod
    def of(R: Tensor, reference: Tensor) -> Axes:
        """Of pictures with R [N,3,3], told by those of numbers `reference` [N]."""
        own = R @ R[reference].transpose(1, 2)
        # Exact where a picture tells its own: with one camera, corrections are then those of its own axes, to the bit.
        same = reference == torch.arange(len(R), device=R.device)
        return Axes(R[reference], torch.where(same[:, None, None], torch.eye(3).to(R), own))

    def at(self, frames: Tensor) -> Axes:
        """Of some of the pictures."""
        return Axes(self.reference[frames], self.own[frames])


def corrected_cameras(cameras: Cameras, turn: Tensor, shift: Tensor, center: Tensor,
                      axes: Axes | None = None) -> Cameras:
    """Cameras [B] that see the head turned by Cayley vectors `turn` [B,3] about `center` [3] (world) and shifted.

    With A the axes in which both are told and Q those of the camera against them (Q A = R; None: the camera's own,
    Q = 1): x -> Q Cay(turn) A (x - center) + (R center + t) + Q shift. Differentiable.
    """
    place = (cameras.R @ center) + cameras.t
    if axes is None:
        R = matrix_from_cayley(turn) @ cameras.R
    else:
        R = axes.own @ (matrix_from_cayley(turn) @ axes.reference)
        shift = (axes.own @ shift[..., None])[..., 0]
    return replace(cameras, R=R, t=place + shift - R @ center)


def orthonormal(six: Tensor) -> Tensor:
    """6D rotations [...,6] whose rows are made orthonormal, as every reader of a clip may expect."""
    return matrix_to_6d(matrix_from_6d(six))
