"""Frames of a face as capture apps send them over the network: ARKit scores and the head's angles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from reenactment.arkit import ARKIT_NAMES, arkit_head, codes_of_scores, score_key
from reenactment.face import Seen, Steady
from reenactment.motion import HeadMotion, motion_of_angles

ARKIT_KEYS = {score_key(name): name for name in ARKIT_NAMES}
LARGEST_SCORE = 2.0  # beyond, a packet is of another kind or in another unit; apps go a little over 1
ANGLE_NAMES = ("yaw", "pitch", "roll")

Angles = tuple[float, float, float]


class PacketError(ValueError):
    """A packet that is not what its protocol says; the message tells what is wrong with it."""


@dataclass(frozen=True)
class FaceSample:
    """One frame. scores: 0 to 1 by ARKit's names, missing ones are 0. angles: yaw, pitch and roll of the head in
    radians, as `motion_of_angles` takes them; None where the sender does not tell. face: whether the app sees one.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    angles: Angles | None = None
    face: bool = True


NO_FACE = FaceSample(face=False)


def checked_score(name: str, value: float) -> float:
    """A score from 0 to 1. PacketError when it is no score."""
    if not (math.isfinite(value) and abs(value) <= LARGEST_SCORE):
        raise PacketError(f"{name}: wanted a score of 0 to 1, got {value}")
    return min(max(value, 0.0), 1.0)


def checked_angle(name: str, value: float) -> float:
    """An angle in radians. PacketError when it is none."""
    if not (math.isfinite(value) and abs(value) <= 2 * math.pi):
        raise PacketError(f"{name}: wanted an angle within a turn, got {value} rad")
    return value


class SampleReader:
    """Samples that come in order, as codes and motion of the open head, steadied like those of a camera.

    head_flip: any of yaw, pitch, roll, whose signs are turned: apps do not agree.
    """

    def __init__(self, head_flip: Sequence[str] = ()) -> None:
        self.head = arkit_head()
        self._signs = [-1.0 if name in head_flip else 1.0 for name in ANGLE_NAMES]
        self._steady = Steady()

    def read(self, sample: FaceSample, time: float) -> Seen:
        """The face of a sample that has one, at `time` seconds."""
        values = np.array([sample.scores.get(name, 0.0) for name in ARKIT_NAMES])
        scores = self._steady.scores(values, time)
        codes = codes_of_scores(self.head, {name: scores[k:k + 1] for k, name in enumerate(ARKIT_NAMES)})
        angles = [sign * angle for sign, angle in zip(self._signs, sample.angles or (0.0, 0.0, 0.0), strict=True)]
        motion = motion_of_angles(*torch.tensor(angles)[:, None])
        return Seen(codes, HeadMotion(self._steady.turn(motion.R[0], time)[None], motion.middle, motion.focal))
