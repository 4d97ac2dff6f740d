"""Players of made-up avatars, for tests that need no trained run."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from blendshape_ops import LOG_SCALES, MEANS, OPACITY, SH, WIDTH

from arguments import ModelSettings
from flame import load_head
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from player import Player
from scene.clip import Clip
from scene.initialize import create_avatar
from scene.mouth import create_mouth
from scene.rig import Codes, Rig
from tests.avatars import swaying

WIDTH_PIXELS, HEIGHT_PIXELS, FRAMES = 60, 48, 8
MODEL = ModelSettings(num_face_gaussians=1500, num_teeth_gaussians=60, num_expressions=40)


def random_codes(count: int, expressions: int, shapes: int, generator: torch.Generator, neck: bool = True) -> Codes:
    """Strong expressions, turns of about ten degrees, lids half closed."""

    def turns() -> torch.Tensor:
        return matrix_to_6d(matrix_from_axis_angle(0.2 * torch.randn(count, 3, generator=generator)))

    return Codes(shape=0.5 * torch.randn(shapes, generator=generator),
                 expression=torch.rand(count, expressions, generator=generator) - 0.2, jaw=turns(),
                 eyes=torch.cat([turns(), turns()], dim=1), eyelids=torch.rand(count, 2, generator=generator),
                 neck=turns() if neck else None)


def made_up_player(device: torch.device, correctives: bool = False, blendshapes: bool = True) -> Player:
    """Coloured, rather opaque Gaussians on the open head, with random differences; two frames in three for training.

    correctives: with random pose correctives of millimetres, as FLAME has them and the open head has not.
    """
    generator = torch.Generator().manual_seed(5)
    head = load_head("open")
    if correctives:
        head = dataclasses.replace(head, pose_dirs=2e-3 * torch.randn(head.pose_dirs.shape, generator=generator))
    codes = random_codes(FRAMES, head.n_expression, head.n_shape, generator)
    angles = torch.zeros(FRAMES, 3)
    angles[:, 1] = torch.linspace(-0.5, 0.5, FRAMES)
    R = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ matrix_from_axis_angle(angles)
    K = torch.tensor([[110.0, 0, WIDTH_PIXELS / 2], [0, 110, HEIGHT_PIXELS / 2], [0, 0, 1]]).repeat(FRAMES, 1, 1)
    frames = torch.arange(FRAMES)
    clip = Clip(codes, R, torch.tensor([0.0, 0.0, 0.8]).repeat(FRAMES, 1), K, WIDTH_PIXELS, HEIGHT_PIXELS,
                frames[frames % 3 < 2], frames[frames % 3 == 2], "open")
    rig = Rig(head, codes, MODEL.num_expressions, torch.device("cpu"))
    mouth = create_mouth(head, rig.posed.neutral, MODEL.num_teeth_gaussians, np.zeros(3), 0)
    avatar = create_avatar(head, rig, mouth, dataclasses.replace(MODEL, blendshapes=blendshapes), 0, clip.train)
    with torch.no_grad():
        avatar.neutral[:, SH] = 0.3 * torch.randn(avatar.count, 48, generator=generator)
        avatar.neutral[:, OPACITY] = 1.0
    spread = torch.full((WIDTH,), 0.05)  # of logits, logarithms, quaternions and colours
    spread[MEANS], spread[LOG_SCALES], spread[-1] = 5e-4, 0.1, 0
    values = avatar.differences.values
    values += spread * torch.randn(values.shape, generator=generator)
    clip = swaying(avatar, rig.posed.neutral, head.expression_dirs[..., :MODEL.num_expressions], clip)
    return Player(head, avatar, clip, 3, MODEL.num_expressions, device, "made up")
