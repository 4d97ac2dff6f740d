"""Codes of one head model as codes of another, through what both do to the same points of a face.

Both heads know where MediaPipe's landmarks lie on them. Least squares asks which codes of the target move these points
as the source's codes do:

    minimise  sum_l |D x - d_l|^2 / sigma_l^2 + |x|^2

x: expression and eyelid codes of the target; d: displacement of landmark l (the source's, in head sizes of the target);
D: the target's displacements per code; sigma: 1 mm, or the landmark's spread where that is larger. The last term is the
codes' own spread of about 1, and decides what landmarks cannot see. Without bounds the answer is one matrix; codes of
sculpted shapes must not be negative, then it is a bounded problem of that matrix's size.

Jaw and eyes turn about joints that all these heads have, so their rotations are passed on. Where the target's jaw
belongs to an expression (`Head.expression_jaw`), the rotation is a further observation of x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flame import JOINT_NAMES, Head
from reenactment.curves import Curves, blink_columns, is_unsigned
from tracking.landmark_embedding import IRISES, LOOSE_SPREAD, landmark_embedding

SIGMA = 1e-3  # metres, of a landmark
JAW_SIGMA = 0.02  # radians
LARGEST_CODE = 1.1  # of a sculpted shape: faces go a little beyond the sculpted extreme
STEPS, TOLERANCE = 300, 1e-5  # of the bounded solver: at most so many, until codes change by no more


def same_head(one: Head, other: Head) -> bool:
    """Whether codes of one head mean the same on the other."""
    return (one.expression_dirs.shape == other.expression_dirs.shape
            and torch.allclose(one.expression_dirs, other.expression_dirs, atol=1e-6)
            and torch.equal(one.expression_jaw, other.expression_jaw))


@dataclass(frozen=True, eq=False)
class Retarget:
    """Maps curves of `source` to curves of `target`; made by `retarget_between`.

    normal [E'+2,E'+2]: the normal matrix of the problem above. onto [E'+2, E+5]: what the source's expression, lids
    and jaw put on its right-hand side. float64.
    """

    source: Head
    target: Head
    normal: Tensor
    onto: Tensor

    def __call__(self, curves: Curves) -> Curves:
        """Curves of the target, frame by frame. ValueError when the curves are not the source's."""
        if curves.expression.shape[1] != self.source.n_expression:
            raise ValueError(f"expression: wanted {self.source.n_expression} codes of {self.source.name}, got "
                             f"{curves.expression.shape[1]}")
        given = torch.cat([curves.expression, curves.lids, curves.jaw], dim=1).double()
        wanted = given @ self.onto.T
        x = torch.linalg.solve(self.normal, wanted.T).T
        x = self._bounded(x, wanted).float()
        expression, lids = x[:, :-2], x[:, -2:]
        return Curves(expression, curves.jaw, curves.gaze, lids, curves.neck)

    def _bounded(self, start: Tensor, wanted: Tensor) -> Tensor:
        """Codes inside their bounds, by projected gradients with momentum (Beck and Teboulle 2009)."""
        low, high = torch.full_like(start[0], -torch.inf), torch.full_like(start[0], torch.inf)
        low[-2:], high[-2:] = 0, 1
        if is_unsigned(self.target):
            low[:], high[:-2] = 0, LARGEST_CODE
        rate = 1 / torch.linalg.matrix_norm(self.normal, 2)
        x = y = start.clamp(low, high)
        pace = 1.0
        for _ in range(STEPS):
            last, x = x, (y - rate * (y @ self.normal - wanted)).clamp(low, high)
            if float((x - last).abs().max()) <= TOLERANCE:
                break
            faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
            y, pace = x + (pace - 1) / faster * (x - last), faster
        return x


def retarget_between(source: Head, target: Head) -> Retarget:
    """The map from one head model's codes to another's. ValueError naming the head that comes without landmarks."""
    ours, theirs, spread = _common_points(source, target)
    scale = _eye_distance(target) / _eye_distance(source)
    weight = (1 / spread.clamp_min(SIGMA)).repeat_interleave(3)[:, None]
    jaw = 1 / JAW_SIGMA
    columns = target.n_expression + 2
    moved = weight * theirs
    turned = torch.zeros(3, columns, dtype=torch.float64)
    turned[:, :-2] = jaw * target.expression_jaw.T
    blinks = blink_columns(target)
    if blinks is not None:  # the lids once: the eyelid codes would do the same as these expressions
        moved[:, -2:] = 0
    normal = moved.T @ moved + turned.T @ turned + torch.eye(columns, dtype=torch.float64)
    onto = torch.zeros(columns, source.n_expression + 5, dtype=torch.float64)
    onto[:, :-3] = moved.T @ (weight * scale * ours)
    onto[:, -3:] = jaw * turned.T
    return Retarget(source, target, normal, onto)


def _common_points(source: Head, target: Head) -> tuple[Tensor, Tensor, Tensor]:
    """Displacements [3L, codes] of the landmarks that both heads have, and their spread [L] in metres."""
    found = [landmark_embedding(head) for head in (source, target)]
    firm = [item.index[item.spread < LOOSE_SPREAD] for item in found]
    shared = np.setdiff1d(np.intersect1d(firm[0], firm[1]), list(IRISES))  # irises move with the eyes' rotations
    if len(shared) < 20:
        raise ValueError(f"heads '{source.name}' and '{target.name}': wanted 20 landmarks or more that both have, got "
                         f"{len(shared)}")
    moves, spreads = [], []
    for head, item in zip((source, target), found, strict=True):
        rows = np.searchsorted(item.index, shared)
        corners = head.faces[torch.from_numpy(item.triangle[rows])]
        directions = torch.cat([head.expression_dirs, head.eyelids.permute(1, 2, 0)], dim=2).double()
        weights = torch.from_numpy(item.barycentric[rows])
        moves.append(torch.einsum("lk,lkce->lce", weights, directions[corners]).flatten(0, 1))
        spreads.append(torch.from_numpy(item.spread[rows]))
    return moves[0], moves[1], torch.maximum(*spreads)


def _eye_distance(head: Head) -> float:
    left, right = (head.joint_regressor[JOINT_NAMES.index(name)] for name in ("left_eye", "right_eye"))
    return float(((left - right) @ head.v_template).norm())
