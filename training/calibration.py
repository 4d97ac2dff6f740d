"""Predicts the corrections of held-out frames from their tracked pose and codes.

A tracker's errors are partly systematic: the head is placed too far when the jaw opens, turned when it looks aside.
Such errors are a function of the tracked pose and codes, so a ridge regression from those to the corrections of
training frames predicts them for any other frame of the clip. No picture of the other frames is looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flame.rotations import matrix_to_axis_angle, polar3
from training.world import World

BLOCKS = 8  # runs of frames left out in turn; neighbours in time are alike, so single frames would judge too kindly
LEAST_FRAMES = 4 * BLOCKS
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)  # of the ridge, for standardised features
LIMIT = 2.5  # standard deviations of training beyond which a feature counts no further: nothing is known there
STILL = 1e-5  # radians, metres, code units: a feature that varies less says nothing


def tracked_features(world: World, frames: Tensor) -> Tensor:
    """What the tracker says of every frame, standardised over `frames` (int64): float64 [T,D] on the CPU.

    Expression codes that move the Gaussians, jaw, eyelids, turn of the head against its mean, place of its centre.
    """
    clip, codes = world.clip, world.clip.codes
    mean_turn = polar3(clip.R[frames].double().mean(dim=0), steps=8)
    turn = matrix_to_axis_angle(clip.R.double() @ mean_turn.T)
    place = clip.R @ world.rig.posed.neutral.mean(dim=0) + clip.t
    parts = [codes.expression[:, :world.rig.num_expressions], codes.jaw, codes.eyelids, turn, place]
    features = torch.cat([part.double() for part in parts], dim=1)
    mean, spread = features[frames].mean(dim=0), features[frames].std(dim=0)
    features = (features - mean) / spread.clamp_min(STILL)
    return features[:, spread > STILL].clamp(-LIMIT, LIMIT)


def predict(features: Tensor, frames: Tensor, corrections: Tensor, groups: list[int]) -> Tensor:
    """Corrections [T,W] predicted from `features` [T,D] by those of `frames` [F] alone: `corrections` [F,W].

    Every group of columns (their widths) gets the ridge that predicts left-out blocks of `frames` best, and 0 where
    none predicts them better than 0 does, or where there are too few frames to tell; none leaves the range of
    `corrections`. float64, on the CPU.
    """
    predicted = torch.zeros(len(features), corrections.shape[1], dtype=corrections.dtype)
    if len(frames) < LEAST_FRAMES:
        return predicted
    known = features[frames]
    block = torch.arange(len(frames)) * BLOCKS // len(frames)
    errors = []
    for strength in STRENGTHS:
        left_out = torch.zeros_like(corrections)
        for number in range(BLOCKS):
            out = block == number
            left_out[out] = known[out] @ _ridge(known[~out], corrections[~out], strength)
        errors.append(((corrections - left_out) ** 2).sum(dim=0))
    start = 0
    for width in groups:
        columns = slice(start, start + width)
        costs = torch.stack([error[columns].sum() for error in errors])
        if costs.min() < (corrections[:, columns] ** 2).sum():
            weights = _ridge(known, corrections[:, columns], STRENGTHS[int(costs.argmin())])
            low, high = corrections[:, columns].amin(dim=0), corrections[:, columns].amax(dim=0)
            predicted[:, columns] = (features @ weights).clamp(low, high)
        start += width
    return predicted


def _ridge(features: Tensor, wanted: Tensor, strength: float) -> Tensor:
    """Weights [D,W] that minimise |features weights - wanted|^2 + strength |weights|^2."""
    normal = features.T @ features + strength * torch.eye(features.shape[1], dtype=features.dtype)
    return torch.linalg.solve(normal, features.T @ wanted)
