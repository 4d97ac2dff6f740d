"""The mesh rasterizer against a per-pixel ray test, and what it must leave out."""

from __future__ import annotations

import numpy as np
import pytest

from utils import mesh_raster
from utils.mesh_raster import nearest_surface, project, rasterize_mesh

WIDTH, HEIGHT = 37, 29
K = np.array([[40.0, 0, 18.3], [0, 42.0, 14.1], [0, 0, 1]])


def brute_force(points: np.ndarray, faces: np.ndarray, cull_back: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moller-Trumbore ray casting through every pixel centre: triangle, barycentric, depth; without a projection."""
    triangle = np.full((HEIGHT, WIDTH), -1)
    barycentric, depth = np.zeros((HEIGHT, WIDTH, 3)), np.full((HEIGHT, WIDTH), np.inf)
    a, e1, e2 = points[faces[:, 0]], *(points[faces[:, i]] - points[faces[:, 0]] for i in (1, 2))
    for row in range(HEIGHT):
        for column in range(WIDTH):
            ray = np.array([(column + 0.5 - K[0, 2]) / K[0, 0], (row + 0.5 - K[1, 2]) / K[1, 1], 1.0])
            p = np.cross(ray, e2)
            determinant = (e1 * p).sum(axis=1)
            u = (-a * p).sum(axis=1) / determinant
            q = np.cross(-a, e1)
            v, z = (q @ ray) / determinant, (e2 * q).sum(axis=1) / determinant
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (z > 1e-3)
            if cull_back:
                hit &= determinant > 0
            if hit.any():
                best = np.flatnonzero(hit)[np.argmin(z[hit])]
                triangle[row, column], depth[row, column] = best, z[best]
                barycentric[row, column] = 1 - u[best] - v[best], u[best], v[best]
    return triangle, barycentric, depth


@pytest.mark.parametrize("cull_back", [False, True])
@pytest.mark.parametrize("count, size", [(900, 0.05), (60, 0.3), (40, 2.0)])
def test_equals_ray_casting(count: int, size: float, cull_back: bool) -> None:
    rng = np.random.default_rng(3)
    centres = rng.uniform((-0.5, -0.4, 1.0), (0.5, 0.4, 2.0), (count, 3))
    points = (centres[:, None] + size * rng.uniform(-0.5, 0.5, (count, 3, 3))).reshape(-1, 3)
    points[:, 2] = np.maximum(points[:, 2], 0.2)  # triangles across the near plane are left out by contract
    faces = np.arange(3 * count).reshape(count, 3)
    pixels, depth = project(points, np.eye(3), np.zeros(3), K)
    result = rasterize_mesh(pixels, depth, faces, WIDTH, HEIGHT, cull_back)
    triangle, barycentric, expected_depth = brute_force(points, faces, cull_back)
    assert (triangle >= 0).sum() > 20
    np.testing.assert_array_equal(result.triangle, triangle)
    # The winner's weights are computed in float64 and stored in float32.
    np.testing.assert_allclose(result.barycentric, barycentric, atol=1e-5)
    np.testing.assert_allclose(result.depth, expected_depth, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_pieces_that_bound_the_memory_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    points = rng.uniform((-0.5, -0.4, 1.0), (0.5, 0.4, 2.0), (120, 3))
    pixels, depth = project(points, np.eye(3), np.zeros(3), K)
    faces = np.arange(120).reshape(40, 3)
    whole = rasterize_mesh(pixels, depth, faces, WIDTH, HEIGHT)
    monkeypatch.setattr(mesh_raster, "CHUNK", chunk)
    parts = rasterize_mesh(pixels, depth, faces, WIDTH, HEIGHT)
    for name in ("triangle", "barycentric", "depth"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_no_cracks_between_triangles() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 24)), axis=2).reshape(-1, 2)
    inner = (np.abs(grid) < 0.99).all(axis=1)
    grid[inner] += rng.uniform(-0.03, 0.03, (inner.sum(), 2))
    points = np.concatenate([grid, np.full((len(grid), 1), 1.0)], axis=1)
    corner = (np.arange(23)[:, None] * 24 + np.arange(23)).ravel()
    faces = (corner[:, None, None] + np.array([[0, 1, 24], [1, 25, 24]])).reshape(-1, 3)
    pixels, depth = project(points, np.eye(3), np.zeros(3), K)
    result = rasterize_mesh(pixels, depth, faces, WIDTH, HEIGHT)
    assert (result.triangle >= 0).all()
    np.testing.assert_allclose(result.depth, 1.0, rtol=1e-6)


def test_equal_depth_goes_to_the_lower_number() -> None:
    points = np.array([[-1.0, -1, 1], [1, -1, 1], [0, 1, 1]])
    pixels, depth = project(points, np.eye(3), np.zeros(3), K)
    result = rasterize_mesh(pixels, depth, np.array([[0, 1, 2], [0, 1, 2]]), WIDTH, HEIGHT)
    assert set(np.unique(result.triangle)) <= {-1, 0}


def test_unsuitable_triangles_are_left_out() -> None:
    good = np.array([[-0.1, -0.1, 1], [0.1, -0.1, 1], [0, 0.1, 1]])
    behind = good * [1, 1, -1]
    across = good + np.array([[0, 0, 0], [0, 0, 0], [0, 0, -1.5]])
    broken = good * np.nan
    flat = np.repeat(good[:1], 3, axis=0)
    far_left = good - [100, 0, 0]
    points = np.concatenate([behind, across, broken, flat, far_left, good])
    pixels, depth = project(points, np.eye(3), np.zeros(3), K)
    result = rasterize_mesh(pixels, depth, np.arange(18).reshape(6, 3), WIDTH, HEIGHT)
    assert set(np.unique(result.triangle)) == {-1, 5}


def test_an_empty_mesh_gives_empty_buffers() -> None:
    result = rasterize_mesh(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 3), int), 5, 4)
    assert result.triangle.shape == (4, 5)
    assert (result.triangle == -1).all()
    assert np.isinf(result.depth).all()
    assert (result.barycentric == 0).all()


@pytest.mark.parametrize("cull_back", [False, True])
def test_the_nearest_surface_alone_is_the_same(cull_back: bool) -> None:
    rng = np.random.default_rng(3)
    pixels, depth = rng.uniform(-4, 36, (60, 2)), rng.uniform(0.5, 2, 60)
    faces = rng.integers(0, 60, (40, 3))
    whole = rasterize_mesh(pixels, depth, faces, 32, 24, cull_back)
    triangle, nearest = nearest_surface(pixels, depth, faces, 32, 24, cull_back)
    assert (triangle >= 0).mean() > 0.3
    np.testing.assert_array_equal(triangle, whole.triangle)
    np.testing.assert_allclose(nearest, whole.depth, rtol=1e-6)  # both float32; one is computed anew at the pixel
