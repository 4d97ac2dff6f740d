"""Which points of a mesh it hides itself, for many frames at once: a depth picture made of samples, for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

SAMPLES_A_SIDE = 8  # of a triangle: more than the pixels it is wide
CHUNK = 8 * 2**20  # samples at once, some 40 bytes each while they are worked on


def nearest_depth(pixels: Tensor, depth: Tensor, faces: Tensor, size: int) -> Tensor:
    """Depth of the nearest surface [F,size,size] of meshes whose vertices appear at pixels [F,V,2], depth [F,V];
    infinite where there is none. Triangles [N,3] that show their backs are left out: a head has no holes.

    Triangles are sampled, not filled: one wider than `SAMPLES_A_SIDE` pixels has gaps.
    """
    steps = torch.arange(SAMPLES_A_SIDE, device=pixels.device)
    first, second = torch.meshgrid(steps, steps, indexing="ij")
    inner = first + second < SAMPLES_A_SIDE
    shares = torch.stack([first[inner], second[inner]]).to(pixels) + 1 / 3
    shares = torch.cat([shares, SAMPLES_A_SIDE - shares.sum(dim=0, keepdim=True)]) / SAMPLES_A_SIDE  # [3,P]
    found = depth.new_full((len(pixels), size * size), torch.inf)
    step = max(1, CHUNK // (len(faces) * shares.shape[1]))
    for start in range(0, len(pixels), step):
        some = slice(start, start + step)
        at, far = pixels[some][:, faces], depth[some][:, faces]  # [f,N,3,2], [f,N,3]
        edge, other = at[:, :, 1] - at[:, :, 0], at[:, :, 2] - at[:, :, 0]
        back = edge[..., 0] * other[..., 1] - edge[..., 1] * other[..., 0] >= 0  # v points down
        back |= (far <= 0).any(dim=2)
        column, row = ((at[..., axis] @ shares).floor() for axis in (0, 1))  # [f,N,P]
        outside = (column < 0) | (row < 0) | (column >= size) | (row >= size) | back[..., None]
        number = torch.where(outside, 0, row * size + column).long()
        value = torch.where(outside, torch.inf, far @ shares)
        found[some].scatter_reduce_(1, number.flatten(1), value.flatten(1), "amin")
    return found.view(-1, size, size)


def in_front(points: Tensor, vertices: Tensor, faces: Tensor, K: Tensor, size: int, slack: float) -> Tensor:
    """Bool [F,L]: which points [F,L,3] lie at most `slack` metres behind the nearest surface of the meshes [F,V,3], all
    in the camera's axes. K [3,3]: for pictures of `size` pixels a side, in which the depth is compared.
    """
    def seen(at: Tensor) -> Tensor:
        return at[..., :2] / at[..., 2:].clamp_min(1e-6) * K.diagonal()[:2] + K[:2, 2]

    nearest = nearest_depth(seen(vertices), vertices[..., 2], faces, size)
    column, row = seen(points).long().clamp(0, size - 1).unbind(-1)
    return points[..., 2] < nearest.flatten(1).gather(1, row * size + column) + slack
