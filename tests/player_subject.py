"""A small avatar on the open head with made-up numbers everywhere, in a player: for tests of what plays or exports."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from arguments import DataSettings, ModelSettings, RunSettings, TrainSettings, save_config
from flame import Head, load_head
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from player import Player
from scene.avatar import Avatar
from scene.calibration import POSE_FEATURES, Calibration
from scene.checkpoint import Checkpoint, save_checkpoint
from scene.clip import Clip, save_clip
from scene.corrections import Columns
from scene.initialize import create_avatar
from scene.mouth import create_mouth
from scene.rig import Codes, Rig
from tests.avatars import swaying

EXPRESSIONS, FRAMES, SIZE = 12, 5, 96
CPU = torch.device("cpu")


def turns(generator: torch.Generator, count: int, degrees: float) -> torch.Tensor:
    """Random rotations of about `degrees` as 6D vectors [count,6]."""
    return matrix_to_6d(matrix_from_axis_angle(torch.randn(count, 3, generator=generator) * np.deg2rad(degrees)))


def lively_codes(head: Head, frames: int, seed: int) -> Codes:
    """Codes in which everything moves."""
    g = torch.Generator().manual_seed(seed)
    expression = 0.6 * torch.rand(frames, head.n_expression, generator=g) ** 3
    eyes = torch.cat([turns(g, frames, 8), turns(g, frames, 8)], dim=1)
    return Codes(shape=0.3 * torch.randn(head.n_shape, generator=g), expression=expression, jaw=turns(g, frames, 6),
                 eyes=eyes, eyelids=torch.rand(frames, 2, generator=g), neck=turns(g, frames, 5))


def lively_avatar(head: Head, codes: Codes, gaussians: int, seed: int) -> Avatar:
    """An avatar whose every learnt number is made up, mostly opaque and a few millimetres large."""
    g = torch.Generator().manual_seed(seed)
    rig = Rig(head, codes, EXPRESSIONS, CPU)
    mouth = create_mouth(head, rig.posed.neutral, gaussians // 10, np.zeros(3), seed)
    settings = ModelSettings(num_expressions=EXPRESSIONS, num_face_gaussians=gaussians)
    avatar = create_avatar(head, rig, mouth, settings, seed, torch.arange(len(codes)))
    count = avatar.count
    with torch.no_grad():
        avatar.neutral[:, 0:3] += 0.002 * torch.randn(count, 3, generator=g)
        avatar.neutral[:, 3:7] = torch.randn(count, 4, generator=g)
        avatar.neutral[:, 7:10] = -5 + 0.5 * torch.randn(count, 3, generator=g)
        avatar.neutral[:, 10] = 2 * torch.randn(count, generator=g)
        avatar.neutral[:, 11:59] = 0.3 * torch.randn(count, 48, generator=g)
        scale = torch.tensor([1e-3] * 3 + [0.2] * 4 + [0.3] * 3 + [1.0] + [0.3] * 48 + [0.0])
        avatar.differences.values.copy_(scale * torch.randn(avatar.differences.values.shape, generator=g))
    return avatar


def correcting_head() -> Head:
    """The open head with made-up pose correctives, which it has none of; none at its occiput, the skull's anchor."""
    head = load_head("open")
    directions = 2e-3 * torch.randn(head.pose_dirs.shape, generator=torch.Generator().manual_seed(3))
    directions[head.regions["back_of_head"]] = 0
    return dataclasses.replace(head, pose_dirs=directions)


@lru_cache(maxsize=2)
def lively_player(gaussians: int = 400, correctives: bool = False) -> Player:
    """The player, with a clip of FRAMES frames seen from the front; built once a process, to be left unchanged."""
    head = correcting_head() if correctives else load_head("open")
    codes = lively_codes(head, FRAMES, seed=1)
    K = torch.tensor([[2.0 * SIZE, 0, SIZE / 2], [0, 2.0 * SIZE, SIZE / 2], [0, 0, 1]])
    angle = torch.linspace(-0.4, 0.4, FRAMES)
    R = torch.diag(torch.tensor([1.0, -1, -1])) @ matrix_from_axis_angle(angle[:, None] * torch.tensor([0.0, 1, 0]))
    clip = Clip(codes, R, torch.tensor([0.0, -0.02, 0.6]).repeat(FRAMES, 1), K.repeat(FRAMES, 1, 1), SIZE, SIZE,
                torch.arange(FRAMES - 1), torch.tensor([FRAMES - 1]), "open")
    avatar = lively_avatar(head, codes, gaussians, seed=2)
    neutral = Rig(head, codes, EXPRESSIONS, CPU).posed.neutral
    clip = swaying(avatar, neutral, head.expression_dirs[..., :EXPRESSIONS], clip)
    return Player(head, avatar, clip, 3, EXPRESSIONS, CPU, "lively")


def made_up_calibration(expressions: int = EXPRESSIONS, camera: str = "") -> Calibration:
    """That shifts the head along each axis by a hundredth of the jaw's first number."""
    rows, columns = expressions + POSE_FEATURES, Columns(expressions).width
    weights = torch.zeros(rows, columns, dtype=torch.float64)
    weights[expressions, 3:6] = 0.01
    wide = torch.tensor([[-10.0], [10.0]], dtype=torch.float64)
    return Calibration(weights, torch.zeros(rows).double(), wide.repeat(1, rows), wide.repeat(1, columns),
                       torch.eye(3).double(), torch.zeros(3).double(), camera)


def write_run(folder: Path, player: Player) -> Path:
    """A run's output folder as train.py leaves it, with this player's avatar and clip."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = TrainSettings(DataSettings(folder / "gone"), RunSettings(folder),
                             ModelSettings(num_expressions=player.num_expressions))
    save_config(settings, folder)
    save_clip(player.clip, folder)
    state = {"sh_degree": player.sh_degree, "expressions": player.num_expressions, "head": player.head.name}
    save_checkpoint(folder / "checkpoints", Checkpoint(1, player.avatar, {}, state))
    return folder
