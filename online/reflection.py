"""The avatar as it is at the moment, doing what its person does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from blendshape_ops import to_bytes
from numpy.typing import NDArray

from player import Player
from reenactment.curves import Curves
from reenactment.face import Seen
from reenactment.motion import HeadMotion, SeenTurns, cameras_of, clip_motion, swaying, transferred
from reenactment.performance import Actor, Cures
from reenactment.video_driver import joined_motion
from training.trainer import Trainer

CURES = Cures(center="none", project="range")  # the person is the avatar's own: no habit stands between them


class Reflection:
    """Draws a copy of a trainer's avatar, for any thread, while training goes on."""

    def __init__(self, trainer: Trainer, motion: list[HeadMotion], name: str) -> None:
        """motion: of the pictures that are the trainer's frames, as the reader of faces saw it."""
        clip = trainer.world.clip
        self._size = clip.width, clip.height
        self._clip, self._name = clip, name
        self._player = self._copied(trainer)
        self._actor = Actor(self._player, trainer.world.head, CURES)
        own = clip_motion(clip, trainer.world.head)
        self._own, self._turns = own.average(), SeenTurns(own.at(clip.train))
        self._place = joined_motion(motion).average()

    def renew(self, trainer: Trainer) -> None:
        """Take another copy of the avatar, which has the same frames."""
        self._player = self._copied(trainer)

    @torch.no_grad()
    def draw(self, seen: Seen) -> NDArray[np.uint8]:
        """The avatar's picture [H,W,3] of a face."""
        player = self._player
        codes = self._actor.cured(Curves.of(seen.codes), None)
        view = self._turns.limited(transferred(seen.motion, self._own, self._place))
        codes = swaying(codes, view, player)
        cameras = cameras_of(view, self._clip, player.head, *self._size).to(player.device)
        picture: NDArray[np.uint8] = to_bytes(player.render(codes.to(player.device), cameras).image)[0].cpu().numpy()
        return picture

    def _copied(self, trainer: Trainer) -> Player:
        avatar = trainer.avatar.on_new_leaves()
        avatar.neutral = avatar.neutral.detach().clone()
        avatar.differences = replace(avatar.differences, values=avatar.differences.values.detach().clone())
        world = trainer.world
        return Player(world.head, avatar, self._clip, trainer.sh_degree, world.rig.num_expressions, trainer.device,
                      self._name)
