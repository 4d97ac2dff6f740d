"""Distances to nearest neighbours against brute force."""

from __future__ import annotations

import pytest
import torch
from simple_knn import distCUDA2, mean_squared_distances


def brute_force(points, k):
    squared = (points[:, None] - points[None]).double().square().sum(-1)
    squared.fill_diagonal_(float("inf"))
    return squared.topk(k, dim=1, largest=False).values.mean(1)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("count", [8, 100, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_brute_force(count, k, dtype):
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(count), dtype=torch.float64).to(dtype)
    got = mean_squared_distances(points, k)
    assert got.dtype == dtype
    # The search is done in double; the result is rounded once to `dtype`.
    assert torch.allclose(got.double(), brute_force(points, k), rtol=1e-6 if dtype == torch.float32 else 1e-12)


def test_a_point_excludes_itself_but_not_its_duplicates():
    """Six coincident points are more than k + 1, so a point may be missing from its own list of neighbours."""
    points = torch.cat([torch.zeros(6, 3), torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]])])
    assert mean_squared_distances(points).tolist() == pytest.approx([0] * 6 + [2 / 3, 2 / 3, (4 + 4 + 9) / 3])
    assert torch.equal(mean_squared_distances(points), brute_force(points, 3).float())


def test_shift_and_scale():
    points = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(mean_squared_distances(3 * points + 5), 9 * mean_squared_distances(points), rtol=1e-10)


def test_familiar_name():
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(distCUDA2(points), mean_squared_distances(points, 3))


@pytest.mark.parametrize(
    "points, k, error, message",
    [
        (torch.zeros(3, 3), 3, ValueError, "points: wanted more than k = 3 points, got 3"),
        (torch.zeros(0, 3), 1, ValueError, "points: wanted more than k = 1 points, got 0"),
        (torch.zeros(9, 2), 3, ValueError, r"points: wanted shape \[N, 3\], got \[9, 2\]"),
        (torch.zeros(9, 3), 0, ValueError, "k: wanted at least 1, got 0"),
        (torch.full((9, 3), float("nan")), 3, ValueError, "points: wanted finite coordinates, got NaN or infinity"),
        (torch.zeros(9, 3, dtype=torch.int64), 3, TypeError, "points: wanted a floating tensor, got torch.int64"),
        ([[0.0] * 3] * 9, 3, TypeError, "points: wanted a floating tensor, got list"),
    ],
)
def test_bad_arguments(points, k, error, message):
    with pytest.raises(error, match=message):
        mean_squared_distances(points, k)
