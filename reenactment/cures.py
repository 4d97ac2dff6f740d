"""Cures for codes that the avatar never saw: another person's habits and extremes are not those it was trained on.

`center` replaces the driver's habitual expression by the avatar's. `project` brings what is left into the range of the
avatar's training codes. Blinks are exempt from both: eyes that never quite close are worse than an unseen lid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from flame import Head
from reenactment.curves import Curves, blink_columns, is_unsigned
from scene.rig import Codes

Center = Literal["none", "rest", "mean"]
Project = Literal["none", "range", "subspace"]

REST = 0.2  # quantile: any one expression rests in a fifth of the frames, and the noise about rest averages out
KEPT_VARIANCE = 0.99  # of the training expressions, in the subspace; the rest is the tracker's noise
TAIL = 0.002  # share of training frames beyond each end of the range: tracking fails now and then


@dataclass(frozen=True, eq=False)
class Habit:
    """Where a clip's curves usually are: expression [E], jaw [3], gaze [6]."""

    expression: Tensor
    jaw: Tensor
    gaze: Tensor


def habit_of(curves: Curves, head: Head, how: Literal["rest", "mean"]) -> Habit:
    """Where the curves of `head` usually are.

    mean: the mean of all. rest: the face between expressions. Sculpted shapes only add to a face, and so does the jaw's
    opening: their level at rest is the `REST` quantile, while their mean tells how much somebody talked. The
    median of everything that goes both ways.
    """
    if how == "mean":
        return Habit(curves.expression.mean(0), curves.jaw.mean(0), curves.gaze.mean(0))
    unsigned = is_unsigned(head)
    expression = torch.quantile(curves.expression, REST if unsigned else 0.5, dim=0)
    # What the jaw does beyond the expressions that it belongs to; the rest of its turn is at rest with them.
    beyond = curves.jaw - curves.expression @ head.expression_jaw
    jaw = beyond.median(0).values
    if not unsigned:
        jaw[0] = torch.quantile(beyond[:, 0], REST)  # +x opens the mouth
    return Habit(expression, jaw + expression @ head.expression_jaw, curves.gaze.median(0).values)


def center(curves: Curves, driver: Habit, avatar: Habit, head: Head, blinks: list[int]) -> Curves:
    """Subtract the driver's habit and add the avatar's. Codes of sculpted shapes stay 0 or more.

    blinks: columns of the expressions that close the lids; they are left alone.
    """
    wanted = curves.expression - driver.expression + avatar.expression
    wanted[:, blinks] = curves.expression[:, blinks]
    shifted = replace(curves, expression=wanted, jaw=curves.jaw - driver.jaw + avatar.jaw,
                      gaze=curves.gaze - driver.gaze + avatar.gaze)
    return shifted.with_expression(wanted.clamp_min(0), head) if is_unsigned(head) else shifted


class TrainingRange:
    """What the avatar saw in training, and how to stay inside.

    Per code, the range between the `TAIL` quantiles of the training frames (rest included: what is not driven must
    stay possible), for expression, jaw and gaze. The subspace is that of the principal components which hold
    `KEPT_VARIANCE` of the expressions, each bounded like a code: it also removes combinations that never occurred.
    """

    def __init__(self, head: Head, training: Curves) -> None:
        self.head = head
        self.expression, self.jaw, self.gaze = (
            _limits(part, rest=True) for part in (training.expression, training.jaw, training.gaze))
        self.mean = training.expression.mean(0)
        _, size, rows = torch.linalg.svd(training.expression - self.mean, full_matrices=False)
        kept = size.square().cumsum(0) < KEPT_VARIANCE * size.square().sum()
        self.components = rows[:int(kept.sum()) + 1]
        self.extents = _limits((training.expression - self.mean) @ self.components.T, rest=False)
        self.blinks = blink_columns(head) or []
        closed = training.expression[:, self.blinks].sum()
        self.blink_share = float(closed / (closed + training.lids.sum()).clamp_min(1e-6))

    def project(self, curves: Curves, how: Project) -> Curves:
        """Curves inside the training range; see the class. "none" only shares out blinks (see `share_blinks`)."""
        if how != "none":
            expression = curves.expression
            if how == "subspace":
                inside = _clamped((expression - self.mean) @ self.components.T, self.extents)
                expression = self.mean + inside @ self.components
            expression = self._kept_shut(curves.expression, _clamped(expression, self.expression))
            expression[:, self.blinks] = curves.expression[:, self.blinks]
            moved = curves.with_expression(expression, self.head)
            curves = replace(moved, jaw=_clamped(moved.jaw, self.jaw), gaze=_clamped(moved.gaze, self.gaze))
        return self.share_blinks(curves)

    def _kept_shut(self, before: Tensor, after: Tensor) -> Tensor:
        """ARKit's mouthClose shuts lips over an open jaw. What of it cannot be had is taken off the jaw's opening, or
        the mouth would gape where the driver's is shut.
        """
        names = self.head.expression_names
        if "mouthClose" in names and "jawOpen" in names:
            shut, jaw = names.index("mouthClose"), names.index("jawOpen")
            after[:, jaw] = (after[:, jaw] - (before[:, shut] - after[:, shut]).clamp_min(0)).clamp_min(0)
        return after

    def share_blinks(self, curves: Curves) -> Curves:
        """Divide each blink between expression and eyelid code as the training clip does.

        Trackers divide as they like, and the mesh shows the sum only; but the avatar's differences follow the
        expression, which is not driven further than in training.
        """
        if not self.blinks:
            return curves
        expression = curves.expression.clone()
        total = (expression[:, self.blinks] + curves.lids).clamp(0, 1)
        shared = torch.minimum(self.blink_share * total, self.expression[1, self.blinks])
        expression[:, self.blinks] = shared
        return replace(curves, expression=expression, lids=total - shared)


def training_range(head: Head, codes: Codes) -> TrainingRange:
    """The range of training codes (CPU). ValueError when there is none."""
    if not len(codes):
        raise ValueError("codes: the avatar's clip has no training frames, so that there is no range to project on; "
                         "use --center none --project none")
    return TrainingRange(head, Curves.of(codes))


def _limits(values: Tensor, rest: bool) -> Tensor:
    """[2,n]: lower and upper limit of the columns of [T,n]; rest: 0 lies inside."""
    limits = torch.quantile(values, torch.tensor([TAIL, 1 - TAIL]).to(values), dim=0)
    return torch.stack([limits[0].clamp_max(0), limits[1].clamp_min(0)]) if rest else limits


def _clamped(values: Tensor, limits: Tensor) -> Tensor:
    return values.clamp(limits[0], limits[1])
