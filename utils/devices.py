"""The device that a flag names."""

from __future__ import annotations

import torch


def resolve_device(name: str) -> torch.device:
    """auto, cpu, cuda or cuda:N -> device. ValueError when CUDA is asked for and not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device: wanted auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: cuda was asked for, but torch finds no usable NVIDIA GPU; use --device cpu")
    return device
