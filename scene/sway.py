"""What the head model moves otherwise than the person: a smooth displacement of its mesh, learnt with the avatar.

The tracked head carries all Gaussians rigidly, but shoulders stay behind when it turns, and an earring hangs down
however it is tilted. Both follow from how the head is turned and placed. And a smile pulls this person's cheeks where
the head model's smile does not. So vertex v is displaced, before skinning as pose correctives do, by

    Σ_c share_vc Σ_k code_k · value_kc                     with few control points c

A frame's first codes tell its pose: turn (rotation vector against the mean of training, with a lever) and place of the
head before the camera, from the mean of training, which is 0. The others are its expressions. All are in centimetres of
motion, so that a head or a part of the face that hardly moved while it was filmed teaches little; in units of its own
spread, noise would teach as much. docs/method.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from blendshape_ops import Drive
from torch import Tensor

from flame.rotations import polar3, turn_and_place

CODES = 6       # of the pose: turn (3), place (3)
CONTROL = 200   # control points
NEAREST = 6     # of them move a vertex
REACH = 0.01    # metres: standard deviation of a control point's say
KNOWN = 0.9     # share of training's poses that count whole; those farther out count as if they were at its edge
STILL = 1e-5    # metres: less is no motion
COLLINEAR = 1e-3  # variance, in parts of each number's own, below which numbers that go together are told apart no more
LEVER = 0.1     # metres: of a turn
UNIT = 0.01     # metres that a code of 1 stands for
EXPRESSION = 0.4  # how much the codes of expressions count beside those of the pose
PREFIX = "sway."  # of its tensors in a file


@dataclass(frozen=True, eq=False)
class Sway:
    """The learnt field and what tells its codes.

    values [6+K,C,3]: metres at a code of 1, learnt; for the pose, then for the expressions that move the Gaussians.
    share [V,C]: how much of a control point's displacement each vertex of the head takes; rows sum to 1. unit [K]: code
    of an expression whose coefficient is 1. facing [3,3], center [3] (metres): of what turn and place are told. mean
    [6] metres: of both over the training frames. edge [6,6], 1/metres: a pose x counts whole where |edge (x - mean)| is
    1 at most, which is the ellipsoid of training's covariance that holds `KNOWN` of its poses. All float32. values,
    share and unit lie on one device; the others, which tell a pose's codes, always on the CPU.
    """

    values: Tensor
    share: Tensor
    unit: Tensor
    facing: Tensor
    center: Tensor
    mean: Tensor
    edge: Tensor

    @staticmethod
    def at_rest(neutral: Tensor, expressions: Tensor, R: Tensor, t: Tensor) -> Sway:
        """An untrained one for a head at rest [V,3], its expressions [V,3,K] and cameras R [F,3,3], t [F,3] (CPU).

        The cameras are those of the training moments.
        """
        facing, center = polar3(R.double().mean(dim=0), steps=8).float(), neutral.mean(dim=0)
        told = _told(R, t, facing, center)
        control = neutral[_farthest(neutral, min(CONTROL, len(neutral)))]
        distance, near = torch.cdist(neutral, control).topk(min(NEAREST, len(control)), largest=False)
        share = torch.zeros(len(neutral), len(control))
        share.scatter_(1, near, torch.softmax(-0.5 * (distance / REACH) ** 2, dim=1))
        unit = EXPRESSION * expressions.norm(dim=1).amax(dim=0) / UNIT
        return Sway(torch.zeros(CODES + len(unit), len(control), 3, requires_grad=True), share, unit, facing, center,
                    told.mean(dim=0), _edge(told))

    def codes(self, R: Tensor, t: Tensor) -> Tensor:
        """Codes float32 [T,6] of the poses that cameras R [T,3,3], t [T,3] see (CPU).

        What lies outside of training's poses is drawn back to their edge, straight towards the mean: each number may be
        within its own range where all of them together were never seen, and a linear field errs most there.
        """
        moved = _told(R, t, self.facing, self.center) - self.mean
        outside = (moved @ self.edge.T).norm(dim=1, keepdim=True)
        return moved / outside.clamp_min(1) / UNIT

    @property
    def control(self) -> Tensor:
        """Displacement [6+K,C,3] of the control points for a pose's codes of 1, then for coefficients of 1."""
        return torch.cat([self.values[:CODES], self.values[CODES:] * self.unit[:, None, None]])

    def expression_directions(self) -> Tensor:
        """Displacement [K,V,3] of the head's vertices for coefficients of 1, metres."""
        return torch.einsum("vc,kcd->kvd", self.share, self.control[CODES:])

    def applied(self, drive: Drive) -> Drive:
        """`drive` with the displacement of its codes and expressions among `pre_offsets`. No codes: the mean pose's."""
        pose = drive.beta.new_zeros(len(drive.beta), CODES) if drive.sway is None else drive.sway
        codes = torch.cat([pose, drive.beta * self.unit], dim=1)
        moved = torch.einsum("vc,bcd->bvd", self.share, torch.einsum("bk,kcd->bcd", codes, self.values))
        return replace(drive, pre_offsets=moved if drive.pre_offsets is None else drive.pre_offsets + moved)

    def to(self, device: torch.device | str) -> Sway:
        """The field on `device`, `values` as a leaf of autograd."""
        return replace(self, values=self.values.detach().to(device).requires_grad_(True), share=self.share.to(device),
                       unit=self.unit.to(device))

    def on_new_leaf(self) -> Sway:
        """The same in the same memory, `values` as a new leaf of autograd."""
        return replace(self, values=self.values.detach().requires_grad_())

    def tensors(self) -> dict[str, Tensor]:
        """By the names that they have in a file."""
        return {PREFIX + item.name: getattr(self, item.name) for item in fields(self)}

    @staticmethod
    def of_tensors(tensors: dict[str, Tensor]) -> Sway | None:
        """What `tensors` gave, None where there is nothing of it.

        ValueError naming the tensor that is missing, unknown, of a wrong shape or type, or not finite.
        """
        mine = {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
        if not mine:
            return None
        vertices, control = mine["share"].shape if "share" in mine and mine["share"].ndim == 2 else (0, 0)
        expressions = mine["unit"].numel() if "unit" in mine else 0
        wanted = {"values": (CODES + expressions, control, 3), "share": (vertices, control), "unit": (expressions,),
                  "facing": (3, 3), "center": (3,), "mean": (CODES,), "edge": (CODES, CODES)}
        if wanted.keys() != mine.keys():
            raise ValueError(f"sway: wanted {sorted(wanted)}, got {sorted(mine)}")
        for name, shape in wanted.items():
            value = mine[name]
            if value.shape != shape or value.dtype != torch.float32 or not value.isfinite().all():
                raise ValueError(f"{PREFIX}{name}: wanted finite float32 {list(shape)}, got {value.dtype} "
                                 f"{list(value.shape)}")
        return Sway(**mine | {"values": mine["values"].requires_grad_(True)})


def _told(R: Tensor, t: Tensor, facing: Tensor, center: Tensor) -> Tensor:
    """Turn of the head against `facing` and place of its centre before the camera: float32 [T,6], metres."""
    turn, place = turn_and_place(R, t, facing.double(), center.double())
    return torch.cat([LEVER * turn, place], dim=1).float()


def _edge(told: Tensor) -> Tensor:
    """`Sway.edge` of poses [F,6]: the root of their covariance's inverse, over how far `KNOWN` of them reach."""
    deviation = told.std(dim=0, correction=0).clamp_min(STILL)
    moved = ((told - told.mean(dim=0)) / deviation).double()
    covariance = moved.T @ moved / len(moved) + COLLINEAR * torch.eye(CODES, dtype=torch.float64)
    root = torch.linalg.cholesky(torch.linalg.inv(covariance)).T
    reach = (moved @ root.T).norm(dim=1).quantile(KNOWN).clamp_min(COLLINEAR)
    return (root / reach).float() / deviation


def _farthest(points: Tensor, count: int) -> Tensor:
    """`count` of points [V,3], each the farthest from those before it; the first is number 0."""
    picked = [0]
    distance = (points - points[0]).norm(dim=1)
    for _ in range(count - 1):
        picked.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[picked[-1]]).norm(dim=1))
    return torch.tensor(picked)
