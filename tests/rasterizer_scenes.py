"""Random scenes for the rasterizer's tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

INPUTS = ("means", "quats", "scales", "opacities", "colors", "R", "t", "K")


def random_scene(batch: int, count: int, width: int, height: int, seed: int = 0) -> dict[str, Any]:
    """Float64 inputs of `rasterize`: splats thin and round, small and large, some outside the picture or behind the
    camera, some beyond the limit of the Jacobian's direction; a skewed, off-centre camera that differs per frame."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    R = torch.linalg.qr(torch.eye(3, dtype=torch.float64) + 0.1 * normal(batch, 3, 3)).Q
    R = R * R.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    K = torch.zeros(batch, 3, 3, dtype=torch.float64)
    K[:, :2] = torch.tensor([[1.2, 0.03, 0.55], [0.02, 1.1, 0.45]], dtype=torch.float64) * width
    K[:, 1, 2] *= height / width
    K[:, :2] *= 1 + 0.05 * uniform(batch, 1, 1)
    K[:, 2, 2] = 1
    return {
        "means": normal(batch, count, 3) * torch.tensor([0.7, 0.7, 0.6], dtype=torch.float64),
        # Not of unit length: the rasterizer takes quaternions as they are.
        "quats": torch.nn.functional.normalize(normal(batch, count, 4), dim=-1)
        * (0.9 + 0.2 * uniform(batch, count, 1)),
        "scales": torch.exp(-3.5 + 1.2 * normal(batch, count, 3)),
        "opacities": uniform(batch, count),
        "colors": 1.5 * uniform(batch, count, 3),
        "R": R,
        "t": torch.tensor([0, 0, 1.5], dtype=torch.float64) + 0.05 * normal(batch, 3),
        "K": K,
    }


def smooth_scene(batch: int = 2, count: int = 6, width: int = 18, height: int = 17, seed: int = 0) -> dict[str, Any]:
    """A scene without cuts near: every Gaussian covers the whole picture with alpha well above 1/255 and below 0.99,
    and all of them together stay transparent (0.5^6 > 1e-4). So the picture is smooth in every input and finite
    differences mean something."""
    scene = random_scene(batch, count, width, height, seed)
    scene["means"] = scene["means"] * 0.3
    scene["scales"] = 0.7 + 0.3 * torch.sigmoid(scene["scales"])
    scene["opacities"] = 0.2 + 0.3 * scene["opacities"]
    return scene


def backgrounds(batch: int, width: int, height: int) -> dict[str, Any]:
    """Every kind of background."""
    g = torch.Generator().manual_seed(7)
    shapes = {"color": (3,), "per frame": (batch, 3), "image": (batch, 3, height, width)}
    return {"black": None} | {
        name: torch.rand(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()
    }


def upstream(batch: int, width: int, height: int) -> list[Tensor]:
    """Random gradients of image and alpha."""
    g = torch.Generator().manual_seed(8)
    shapes = ((batch, 3, height, width), (batch, height, width))
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
