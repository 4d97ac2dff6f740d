"""How a head moves before its camera, and cameras for an avatar that move it likewise.

Avatars stand still and the camera moves around them, as trackers have it; a head's turn is the camera's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flame import Head
from flame.rotations import matrix_from_axis_angle, matrix_to_axis_angle
from gaussian_renderer import Cameras
from player import Player
from reenactment.smoothing import smoothed_columns
from scene.clip import Clip
from scene.rig import Codes

FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # y up, z towards the viewer -> y down, z away
LEEWAY = 0.05  # radians, of turns beyond those of training: 3 degrees more still look right
NEAREST = 0.2  # metres from the head's middle to the camera; nearer, it would look through the face


@dataclass(frozen=True, eq=False)
class HeadMotion:
    """Head to camera, float32 (CPU): R [T,3,3]; middle [T,3], where the head's middle is in the camera's axes (metres,
    y down, z forward); focal [T], in picture widths.
    """

    R: Tensor
    middle: Tensor
    focal: Tensor

    def at(self, frames: slice | Tensor) -> HeadMotion:
        """Some frames."""
        return HeadMotion(self.R[frames], self.middle[frames], self.focal[frames])

    def __len__(self) -> int:
        return len(self.R)

    def average(self) -> HeadMotion:
        """The mean pose and place, [1]."""
        return HeadMotion(mean_rotation(self.R)[None], self.middle.mean(0, keepdim=True), self.focal.mean()[None])

    def smoothed(self, window: int) -> HeadMotion:
        """Savitzky-Golay over `window` frames, of the rotation against the mean one."""
        mean = mean_rotation(self.R)
        turns = smoothed_columns(matrix_to_axis_angle(self.R @ mean.T), window)
        return HeadMotion(matrix_from_axis_angle(turns) @ mean, smoothed_columns(self.middle, window), self.focal)


def motion_of(head: Head, R: Tensor, t: Tensor, focal: Tensor) -> HeadMotion:
    """Of cameras that were tracked with `head`: R [T,3,3], t [T,3] world to camera, focal [T] in picture widths."""
    return HeadMotion(R, R @ middle_of(head) + t, focal)


def middle_of(head: Head) -> Tensor:
    """The point [3] of head space about which heads are taken to turn: the mean vertex, inside the skull's base."""
    return head.v_template.mean(0)


def mean_rotation(R: Tensor) -> Tensor:
    """The rotation nearest to the mean of rotations [T,3,3] (chordal mean)."""
    u, _, vh = torch.linalg.svd(R.double().mean(0))
    sign = torch.ones(3, dtype=torch.float64)
    sign[2] = torch.linalg.det(u @ vh)
    return ((u * sign) @ vh).float()


def clip_motion(clip: Clip, head: Head) -> HeadMotion:
    """How the head moves in the avatar's own clip."""
    return motion_of(head, clip.R, clip.t, clip.K[:, 0, 0] / clip.width)


def transferred(driver: HeadMotion, avatar: HeadMotion, reference: HeadMotion | None = None) -> HeadMotion:
    """The driver's turns and moves about the mean position of `reference` (None: its own), done from the avatar's.

    Turns are equal; moves are equal as seen, in picture widths across and in proportion along the line of sight: two
    crops of different lenses show equal moves so.
    """
    own, base = avatar.average(), (driver if reference is None else reference).average()
    away = (driver.middle[:, 2] / base.middle[:, 2] * own.middle[:, 2]).clamp_min(NEAREST)
    across = _seen(own) + _seen(driver) - _seen(base)
    return HeadMotion(driver.R @ base.R.mT @ own.R, torch.cat([across * away[:, None] / own.focal, away[:, None]], 1),
                      own.focal.expand(len(driver)))


def _seen(motion: HeadMotion) -> Tensor:
    """Where the head's middle is in the picture [T,2], in picture widths from the principal point."""
    return motion.focal[:, None] * motion.middle[:, :2] / motion.middle[:, 2:].clamp_min(NEAREST)


class SeenTurns:
    """The turns of the head that training showed, about the mean one: beyond them the avatar's sides are made up.

    mean [3,3]; low, high [3]: limits of the turn from it, as a rotation vector.
    """

    def __init__(self, training: HeadMotion) -> None:
        self.mean = mean_rotation(training.R)
        turns = matrix_to_axis_angle(training.R @ self.mean.T)
        self.low, self.high = turns.amin(0).clamp_max(0), turns.amax(0).clamp_min(0)

    def limited(self, motion: HeadMotion) -> HeadMotion:
        """Turns inside are as they are; what goes beyond is slowed down, to end at most `LEEWAY` further."""
        turns = matrix_to_axis_angle(motion.R @ self.mean.T)
        inside = turns.clamp(self.low, self.high)
        turns = inside + LEEWAY * torch.tanh((turns - inside) / LEEWAY)
        return HeadMotion(matrix_from_axis_angle(turns) @ self.mean, motion.middle, motion.focal)


def still(avatar: HeadMotion, count: int) -> HeadMotion:
    """The head at its mean pose and place for `count` frames."""
    return avatar.average().at(torch.zeros(count, dtype=torch.int64))


def orbited(motion: HeadMotion, degrees: float, frames_a_turn: float) -> HeadMotion:
    """The view swings around the head: to the left, to the right, by `degrees`, once in `frames_a_turn` frames, up and
    down by a third of it at twice the pace.
    """
    phase = 2 * math.pi / frames_a_turn * torch.arange(len(motion))
    turns = torch.zeros(len(motion), 3)
    turns[:, 1], turns[:, 0] = torch.sin(phase), torch.sin(2 * phase) / 3
    swing = matrix_from_axis_angle(math.radians(degrees) * turns)
    # The swing is about the camera's axes through the head's middle, so that the head stays where it is in the picture.
    return HeadMotion(swing @ motion.R, motion.middle, motion.focal)


def cameras_of(motion: HeadMotion, clip: Clip, head: Head, width: int, height: int) -> Cameras:
    """Cameras that show the avatar's head so, with the principal point of its clip, for width x height pictures."""
    scale = torch.tensor([width / clip.width, height / clip.height, 1.0])
    K = (clip.K.mean(0) * scale[:, None]).repeat(len(motion), 1, 1)
    t = motion.middle - motion.R @ middle_of(head)
    return Cameras(motion.R.contiguous(), t, K, width, height)


def swaying(codes: Codes, motion: HeadMotion, player: Player) -> Codes:
    """`codes` [T] with how the avatar's hair, neck and clothes follow where its head moves so."""
    sway = player.avatar.sway
    if sway is None:
        return codes
    t = motion.middle - motion.R @ middle_of(player.head)
    return replace(codes, sway=sway.codes(motion.R, t))


def turn_of_angles(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Turns [T,3,3] of a head: radians [T] about its y (to its left), x (down) and z axes, the last one first."""
    zero = torch.zeros_like(yaw)
    return (matrix_from_axis_angle(torch.stack([zero, yaw, zero], 1))
            @ matrix_from_axis_angle(torch.stack([pitch, zero, zero], 1))
            @ matrix_from_axis_angle(torch.stack([zero, zero, roll], 1)))


def angles_of_turn(R: Tensor) -> tuple[float, float, float]:
    """Yaw, pitch and roll in radians of one turn [3,3]; the inverse of `turn_of_angles`."""
    pitch = math.asin(max(-1.0, min(1.0, -float(R[1, 2]))))
    return math.atan2(float(R[0, 2]), float(R[2, 2])), pitch, math.atan2(float(R[1, 0]), float(R[1, 1]))


def motion_of_angles(yaw: Tensor, pitch: Tensor, roll: Tensor) -> HeadMotion:
    """Of a head that turns on the spot; angles as `turn_of_angles`."""
    middle = torch.tensor([0.0, 0.0, 0.6]).repeat(len(yaw), 1)
    return HeadMotion(FLIP @ turn_of_angles(yaw, pitch, roll), middle, torch.full((len(yaw),), 2.0))
