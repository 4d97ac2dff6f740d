"""Every expression in turn, from rest to full and back: what an avatar has learnt, at a glance."""

from __future__ import annotations

import math

import torch

from player import Player
from reenactment.curves import Curves
from scene.rig import Codes


def expression_sweep(player: Player, frames: int, amplitude: float) -> tuple[Codes, list[str]]:
    """Codes of K x `frames` frames (CPU) and what each shows ("jawOpen 0.85"), for the K expressions that move it.

    Each goes 0 -> amplitude -> 0, softly; the jaw goes with those that it belongs to. ValueError for fewer than 3
    frames, or an amplitude that is 0.
    """
    if frames < 3 or not math.isfinite(amplitude) or amplitude == 0:
        raise ValueError(f"sweep: wanted 3 frames or more each and an amplitude other than 0, got {frames} and "
                         f"{amplitude}")
    names = player.expression_names[:player.rig.num_expressions]
    rise = amplitude * 0.5 * (1 - torch.cos(2 * math.pi * torch.arange(frames) / (frames - 1)))
    expression = torch.zeros(len(names) * frames, player.head.n_expression)
    for column in range(len(names)):
        expression[column * frames:(column + 1) * frames, column] = rise
    rest = Curves.of(player.neutral_codes(len(expression)).to("cpu"))
    codes = rest.with_expression(expression, player.head).codes(player.clip.codes.shape)
    return codes, [f"{name} {float(value):.2f}" for name in names for value in rise]
