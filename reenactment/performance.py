"""A driver's frames as an avatar's: retargeted, smoothed, cured, and how its head moves before the camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from flame import Head
from player import Player
from reenactment.cures import Center, Habit, Project, center, habit_of, training_range
from reenactment.curves import Curves
from reenactment.driver import Driver
from reenactment.motion import HeadMotion, SeenTurns, clip_motion, still, transferred
from reenactment.retarget import Retarget, retarget_between, same_head
from reenactment.smoothing import smoothed
from scene.rig import Codes

Motion = Literal["driver", "clip", "none"]


@dataclass(frozen=True)
class Cures:
    """How codes are brought to the avatar; see docs/reenact.md. smooth: Savitzky-Golay window in frames, 0: off."""

    center: Center = "rest"
    project: Project = "range"
    smooth: int = 0


class Actor:
    """Brings curves of one head model to an avatar; built once for both."""

    def __init__(self, player: Player, head: Head, cures: Cures) -> None:
        """ValueError where the models have no landmarks to map between them."""
        self.player, self.cures = player, cures
        codes = player.clip.codes
        training = codes.at(player.clip.train)
        self._range = training_range(player.head, training)
        self._own_habit = self.habit(Curves.of(training))
        self._retarget: Retarget | None = None if same_head(head, player.head) else retarget_between(head, player.head)

    def retargeted(self, curves: Curves) -> Curves:
        """Curves of the driver's head as curves of the avatar's."""
        return curves if self._retarget is None else self._retarget(curves)

    def habit(self, curves: Curves) -> Habit | None:
        """The habit of retargeted curves that `cured` replaces by the avatar's; None with --center none."""
        return None if self.cures.center == "none" else habit_of(curves, self.player.head, self.cures.center)

    def cured(self, curves: Curves, habit: Habit | None) -> Codes:
        """Codes of the avatar from retargeted curves."""
        if habit is not None and self._own_habit is not None:
            curves = center(curves, habit, self._own_habit, self.player.head, self._range.blinks)
        curves = self._range.project(curves, self.cures.project)
        return curves.codes(self.player.clip.codes.shape)


def perform(player: Player, driver: Driver, cures: Cures) -> Codes:
    """Codes of the avatar [T,...] (CPU) that do what the driver's do."""
    actor = Actor(player, driver.head, cures)
    curves = smoothed(actor.retargeted(Curves.of(driver.codes)), cures.smooth)
    return actor.cured(curves, actor.habit(curves))


def head_motion(player: Player, driver: Driver, how: Motion, cures: Cures) -> tuple[HeadMotion, str]:
    """The avatar's head before its camera, and a sentence where that is not what was asked for.

    driver: the driver's motion, transferred, and limited to the turns of training if the codes are projected; clip: as
    in the avatar's own clip, from its start (again and again when the driver is longer); none: still.
    """
    own = clip_motion(player.clip, player.head)
    if how == "driver" and driver.motion is not None:
        motion = transferred(driver.motion.smoothed(cures.smooth), own)
        return motion if cures.project == "none" else SeenTurns(own.at(player.clip.train)).limited(motion), ""
    if how == "clip":
        return own.at(torch.arange(len(driver)) % len(own)), ""
    note = "" if how == "none" else f"{driver.name} does not tell how the head moves, so it stays still"
    return still(own, len(driver)), note
