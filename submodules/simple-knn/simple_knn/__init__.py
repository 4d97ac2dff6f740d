"""Exact distances to nearest neighbours."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from . import _native

__all__ = ["distCUDA2", "mean_squared_distances"]

_MAX_CUDA_K = 8  # kernels are compiled for 1 to 8 neighbours, which they hold in registers


def mean_squared_distances(points: Tensor, k: int = 3) -> Tensor:
    """Mean of the squared distances from each point to its `k` nearest other points.

    `points` [N, 3] floating, finite, N > k; returns [N] of the same dtype and device, in squared units. A point
    excludes itself by index, so coincident points are neighbours at distance 0. Raises TypeError or ValueError.

    float32 points on a GPU with k up to 8 are compared all with all there, where the CUDA library is
    built; everything else is found by SciPy's k-d tree, in float64.
    """
    _check(points, k)
    if points.is_cuda and points.dtype == torch.float32 and k <= _MAX_CUDA_K and _native.is_built("cuda"):
        return _mean_squared_distances_cuda(points.detach().contiguous(), k)
    return _mean_squared_distances_scipy(points, k)


def distCUDA2(points: Tensor) -> Tensor:  # noqa: N802 (the name that 3D Gaussian Splatting code expects)
    """`mean_squared_distances` with k = 3 under its familiar name; works on any device."""
    return mean_squared_distances(points)


def _check(points: Tensor, k: int) -> None:
    if not isinstance(points, Tensor) or not points.is_floating_point():
        got = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise TypeError(f"points: wanted a floating tensor, got {got}")
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points: wanted shape [N, 3], got {list(points.shape)}")
    if k < 1:
        raise ValueError(f"k: wanted at least 1, got {k}")
    if points.shape[0] <= k:
        raise ValueError(f"points: wanted more than k = {k} points, got {points.shape[0]}")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points: wanted finite coordinates, got NaN or infinity")


def _mean_squared_distances_scipy(points: Tensor, k: int) -> Tensor:
    from scipy.spatial import cKDTree

    coordinates = points.detach().cpu().double().numpy()
    distances, neighbours = cKDTree(coordinates).query(coordinates, k=k + 1, workers=-1)
    squared, neighbours = torch.from_numpy(distances).square(), torch.from_numpy(neighbours)
    own = neighbours == torch.arange(len(coordinates))[:, None]
    # More than k coincident points can crowd the point itself out of the list; the last entry is then dropped instead.
    own[:, -1] |= ~own.any(dim=1)
    others = squared[~own].view(-1, k)
    return others.mean(dim=1).to(points)


def _mean_squared_distances_cuda(points: Tensor, k: int) -> Tensor:
    result = points.new_empty(points.shape[0])
    library = _native.load("cuda")
    with torch.cuda.device(points.device):
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        count = ctypes.c_int64(points.shape[0])
        pointers = (_native.pointer(points), _native.pointer(result))
        status = library.simple_knn_mean_squared_distances_f32(count, ctypes.c_int(k), *pointers, stream)
    _native.check(library, "simple_knn", status)
    return result
