"""Weights of LPIPS that no network was trained to have."""

from __future__ import annotations

from pathlib import Path

import torch

SHAPES = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}


def random_alexnet(folder: Path) -> Path:
    """`folder`, new, with random convolutions of AlexNet: the numbers mean nothing, where they appear does."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    state = {f"features.{i}.weight": 0.05 * torch.randn(shape, generator=generator) for i, shape in SHAPES.items()}
    state |= {f"features.{i}.bias": torch.zeros(shape[0]) for i, shape in SHAPES.items()}
    torch.save(state, folder / "alexnet_features.pth")
    return folder
