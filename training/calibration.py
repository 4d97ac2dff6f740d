"""Learns to predict corrections of the tracking from the tracked pose and codes (scene/calibration.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from flame.rotations import polar3
from scene.calibration import Calibration, tracked_features
from scene.corrections import Columns
from scene.rig import Codes

BLOCKS = 8  # runs of frames left out in turn; neighbours in time are alike, so single frames would judge too kindly
LEAST_FRAMES = 4 * BLOCKS
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)  # of the ridge, for standardised features
LIMIT = 2.5  # standard deviations of training beyond which a feature counts no further: nothing is known there
STILL = 1e-5  # radians, metres, code units: a feature that varies less says nothing


def learn_calibration(codes: Codes, R: Tensor, t: Tensor, metres: Tensor, columns: Columns, reach: Tensor,
                      center: Tensor, camera: str) -> Calibration | None:
    """The calibration that predicts the corrections of F frames from their tracking; all on the CPU.

    codes, R [F,3,3], t [F,3]: as the tracker said. metres [F,W]: the corrections as motion of the surface, float64.
    reach [W]: metres that the surface moves with a unit of each of `columns`. center [3], camera: see `Calibration`.
    None where there are too few frames to tell, or where nothing can be predicted.
    """
    if len(metres) < LEAST_FRAMES:
        return None
    facing, center = polar3(R.double().mean(dim=0), steps=8), center.double()
    told = tracked_features(codes, R, t, columns.expressions, facing, center)
    mean, spread = told.mean(dim=0), told.std(dim=0)
    scale = torch.where(spread > STILL, 1 / spread.clamp_min(STILL), 0.0)
    weights = ridge_weights(((told - mean) * scale).clamp(-LIMIT, LIMIT), metres, columns.sizes)
    if not weights.any():
        return None
    unit = torch.where(reach > 0, 1 / reach.double().clamp_min(1e-12), 0.0) * weights.any(dim=0)
    reached = LIMIT * spread
    return Calibration(scale[:, None] * weights * unit, mean, torch.stack([mean - reached, mean + reached]),
                       torch.stack([metres.amin(dim=0), metres.amax(dim=0)]) * unit, facing, center, camera)


def ridge_weights(features: Tensor, corrections: Tensor, groups: list[int]) -> Tensor:
    """Weights [D,W] that predict `corrections` [F,W] from standardised `features` [F,D]; float64.

    Every group of columns (their widths) gets the ridge that predicts left-out blocks of the frames best, and 0 where
    none predicts them better than 0 does.
    """
    pieces = torch.bincount(torch.arange(len(features)) * BLOCKS // len(features)).tolist()
    known, wanted = features.split(pieces), corrections.split(pieces)
    normals = torch.stack([part.T @ part for part in known])
    moments = torch.stack([part.T @ target for part, target in zip(known, wanted, strict=True)])
    # What is left without each block, and everything. One decomposition of each serves all strengths.
    normals = torch.cat([normals.sum(dim=0) - normals, normals.sum(dim=0, keepdim=True)])
    moments = torch.cat([moments.sum(dim=0) - moments, moments.sum(dim=0, keepdim=True)])
    values, axes = torch.linalg.eigh(normals)
    along = axes.transpose(1, 2) @ moments

    def error(strength: float) -> Tensor:
        """Squared error [W] of left-out blocks."""
        parts = [(target - (part @ axes[i]) @ (along[i] / (values[i, :, None] + strength))) ** 2
                 for i, (part, target) in enumerate(zip(known, wanted, strict=True))]
        return torch.cat(parts).sum(dim=0)

    errors = torch.stack([error(strength) for strength in STRENGTHS])
    weights = corrections.new_zeros(features.shape[1], corrections.shape[1])
    start = 0
    for width in groups:
        columns = slice(start, start + width)
        costs = errors[:, columns].sum(dim=1)
        if costs.min() < (corrections[:, columns] ** 2).sum():
            strength = STRENGTHS[int(costs.argmin())]
            weights[:, columns] = axes[-1] @ (along[-1][:, columns] / (values[-1, :, None] + strength))
        start += width
    return weights
