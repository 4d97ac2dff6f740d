"""Rotating spherical harmonics up to degree 3, in the basis and signs of 3D Gaussian splatting."""

from __future__ import annotations

import math

import torch
from blendshape_ops import sh_basis
from torch import Tensor

CHUNK = 4096  # Gaussians at a time: 12 directions x 16 functions in double take 1.5 kB each, 6 MB in all
DIRECTIONS = 12  # at least 7, the functions of degree 3; 12 of the spiral leave each degree a condition below 3.3


def _spread_directions(count: int) -> Tensor:
    """`count` unit vectors [count,3] (double) spread over the sphere: a Fibonacci spiral."""
    step = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * step / count
    around = step * math.pi * (3 - math.sqrt(5))
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * around.cos(), radius * around.sin(), z], dim=1)


def rotate_sh(sh: Tensor, rotation: Tensor) -> Tensor:
    """Coefficients [N,C,3] (C = 1, 4, 9 or 16) of the functions that `rotation` turns those of `sh` into.

    rotation: [N,3,3], or [1,3,3] for all.

    colour_new(d) = colour_old(R^T d) for every direction d. Each degree's functions span a space that rotations map
    to itself, so its matrix (Wigner's, in this basis) is found exactly from the values at a few directions:
    Y(D) M = Y(D R). Computed in double, returned in the dtype of `sh`. ValueError for another C.
    """
    degree = math.isqrt(sh.shape[1]) - 1
    if not 0 <= degree <= 3 or (degree + 1) ** 2 != sh.shape[1]:
        raise ValueError(f"sh: wanted 1, 4, 9 or 16 coefficients, got {sh.shape[1]}")
    directions = _spread_directions(DIRECTIONS).to(sh.device)
    bands = [slice(band * band, (band + 1) ** 2) for band in range(1, degree + 1)]
    inverses = [torch.linalg.pinv(sh_basis(directions, degree)[:, columns]) for columns in bands]
    out = sh.clone()
    for start in range(0, len(sh), CHUNK):
        part = slice(start, start + CHUNK)
        own = rotation if len(rotation) == 1 else rotation[part]
        turned = sh_basis(directions @ own.double(), degree)  # [n,DIRECTIONS,C]
        for columns, inverse in zip(bands, inverses, strict=True):
            matrix = inverse @ turned[..., columns]
            out[part, columns] = (matrix @ sh[part, columns].double()).to(sh.dtype)
    return out
