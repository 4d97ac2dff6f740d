"""A world whose pictures are drawn by a known avatar with known tracking, for tests of its refinement."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import torch
from blendshape_ops import Binding
from torch import Tensor

from flame import load_head
from flame.rotations import matrix_from_axis_angle
from gaussian_renderer import Cameras, render
from player import Player
from scene.avatar import Avatar
from scene.clip import corrected_clip
from scene.corrections import Columns, corrected_cameras
from scene.mouth import create_mouth
from scene.recording import Recording
from scene.rig import Rig
from tests.player_subject import CPU, EXPRESSIONS, lively_player
from training.world import World

HELD_OUT = 4  # the last frame of the player's five


class Pictures:
    """Stands for a Dataset: pictures that the player's avatar draws with its own tracking."""

    def __init__(self, player: Player, world: World) -> None:
        clip = world.clip
        self.train_indices, self.test_indices = clip.train.numpy(), clip.test.numpy()
        self.frame_count, self.width, self.height = len(clip), clip.width, clip.height
        self.sizes = ((clip.width, clip.height),)
        self.images_by_size = None
        with torch.no_grad():
            index = torch.arange(len(clip))
            cameras = world.cameras_of(index)
            output = render(player.avatar.pose(world.rig.drive(index, cameras.centers), player.sh_degree), cameras)
        alpha = output.alpha[:, None]
        rgba = torch.cat([(output.image / alpha.clamp_min(1e-3)).clamp(0, 1), alpha], dim=1)
        self.rgba_all = (255 * rgba).round().byte().permute(0, 2, 3, 1).contiguous()

    def rgba_batch(self, indices: Sequence[int]) -> Tensor:
        return self.rgba_all[torch.as_tensor(np.asarray(indices))]

    def size(self, index: int) -> tuple[int, int]:
        return self.sizes[0]

    def by_size(self, indices: Sequence[int]) -> list[np.ndarray]:
        return [np.asarray(indices)]

    def prefetch(self, indices: Sequence[int]) -> None:
        pass


@lru_cache(maxsize=1)
def true_world() -> World:
    """The world as it is: nothing to correct."""
    player = lively_player()
    clip, head = player.clip, load_head("open")
    rig = Rig(head, clip.codes, EXPRESSIONS, CPU)
    mouth = create_mouth(head, rig.posed.neutral, 20, np.zeros(3), 0)
    cameras = Cameras(clip.R, clip.t, clip.K, clip.width, clip.height)
    sizes = SimpleNamespace(sizes=((clip.width, clip.height),))
    world = World(sizes, clip, head, rig, mouth, cameras, None, whole=False)  # type: ignore[arg-type]
    return replace(world, dataset=Pictures(player, world))  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def ring_world(swings: tuple[float, ...] = (0.0, 0.5, -0.7)) -> World:
    """The same moments seen by a camera for each swing: radians about the vertical through the head's place."""
    base = true_world()
    clip, count = base.clip, len(base.clip)
    place = (clip.R @ base.rig.posed.neutral.mean(dim=0) + clip.t).mean(dim=0)
    turns = matrix_from_axis_angle(torch.tensor([[0.0, swing, 0.0] for swing in swings]))
    R = torch.cat([turn @ clip.R for turn in turns])
    t = torch.cat([(clip.t - place) @ turn.T + place for turn in turns])
    index = torch.arange(count).repeat(len(swings))
    view = np.repeat(np.arange(len(swings)), count)
    trains = torch.from_numpy(np.isin(index.numpy(), clip.train.numpy()))
    recorded = Recording(index.numpy(), view, tuple(f"cam{number}" for number in range(len(swings))))
    ring = replace(clip, codes=clip.codes.at(index), R=R, t=t, K=clip.K[index], recorded=recorded,
                   train=torch.nonzero(trains)[:, 0], test=torch.nonzero(~trains)[:, 0])
    cameras = Cameras(ring.R, ring.t, ring.K, ring.width, ring.height)
    sizes = SimpleNamespace(sizes=((ring.width, ring.height),))
    world = replace(base, dataset=sizes, clip=ring, cameras=cameras,  # type: ignore[arg-type]
                    rig=base.rig.with_codes(ring.codes))
    return replace(world, dataset=Pictures(lively_player(), world))  # type: ignore[arg-type]


def true_avatar() -> Avatar:
    """A copy, with tables of its own, of the avatar that drew the pictures."""
    return deepcopy(lively_player().avatar)


def mistracked(change: Tensor) -> World:
    """The world with its pictures, but with corrections [T,width] added to the true tracking."""
    world = true_world()
    turn, shift, codes = Columns(EXPRESSIONS).parts(change)
    cameras = corrected_cameras(world.cameras, turn, shift, world.rig.posed.neutral.mean(dim=0))
    clip = corrected_clip(world.clip, cameras, codes)
    return replace(world, cameras=cameras, clip=clip, rig=world.rig.with_codes(clip.codes))


def mistake(turn: float, shift: float, expression: float, seed: int = 0) -> Tensor:
    """Corrections [T,width] of these sizes (radians, metres, code units) for `mistracked`."""
    columns, generator = Columns(EXPRESSIONS), torch.Generator().manual_seed(seed)
    sizes = torch.tensor([turn] * 3 + [shift] * 3 + [expression] * EXPRESSIONS + [0.0] * 20)
    return sizes * torch.randn(len(true_world().clip), columns.width, generator=generator)


def in_double(rig: Rig) -> Rig:
    """The rig with its tables in double precision."""
    other = copy(rig)
    for name in ("maps", "pose_dirs", "eyelid_dirs", "bones", "beta", "_pose_feature", "_eyelids"):
        value = getattr(rig, name)
        setattr(other, name, value.double() if value is not None else None)
    other._moving = None
    return other


def avatar_in_double() -> Avatar:
    """The avatar with its tables in double precision."""
    avatar = true_avatar()
    d, b = avatar.differences, avatar.binding
    differences = replace(d, values=d.values.double(), mask=d.mask.double(), factors=[])
    binding = Binding(b.triangle, b.anchor.double(), b.barycentric.double(), b.weights.double())
    return Avatar(avatar.neutral.detach().double(), differences, binding, avatar.part, 10 * avatar.code_range.double())


def camera_errors(world: World, frames: Tensor) -> tuple[float, float]:
    """Mean turn (radians) and shift of the head's centre (metres) against the truth."""
    truth, center = true_world(), true_world().rig.posed.neutral.mean(dim=0)
    here, there = world.cameras_of(frames), truth.cameras_of(frames)
    cosine = ((here.R * there.R).sum(dim=(1, 2)) - 1) / 2
    shift = (here.R @ center + here.t) - (there.R @ center + there.t)
    return float(torch.arccos(cosine.clamp(-1, 1)).mean()), float(shift.norm(dim=1).mean())
