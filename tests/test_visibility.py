"""Which points of a head it hides itself: the GPU's way against the rasterizer's, and simple scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flame import load_head
from tests.heads import still_fit
from tracking.mesh_view import MeshView
from tracking.photometric_fit import DEPTH_SLACK, RASTER, _in_front
from tracking.photometric_term import MIN_FACING
from tracking.visibility import in_front, nearest_depth

K = torch.tensor([[100.0, 0, 32], [0, 100, 32], [0, 0, 1]])


def square(x: float, y: float, z: float, half: float) -> torch.Tensor:
    """Corners [4,3] of a square that faces the camera."""
    return torch.tensor([[x - half, y - half, z], [x - half, y + half, z], [x + half, y + half, z],
                         [x + half, y - half, z]])


FACES = torch.tensor([[0, 1, 2], [0, 2, 3]])


def test_a_square_hides_what_lies_behind_it() -> None:
    corners = square(0, 0, 1, 0.03)[None]
    points = torch.tensor([[[0, 0, 0.9], [0, 0, 1.003], [0, 0, 1.1], [0.2, 0, 1.1]]])
    assert in_front(points, corners, FACES, K, 64, 0.004).tolist() == [[True, True, False, True]]
    turned = in_front(points, corners, FACES.flip(1), K, 64, 0.004)
    assert turned.all(), "a back is not there"


def test_the_nearest_of_two_counts_in_each_frame() -> None:
    near, far = square(0, 0, 1, 0.03), square(0, 0, 2, 0.06)
    meshes = torch.stack([torch.cat([near, far]), torch.cat([far, near])])
    faces = torch.cat([FACES, FACES + 4])
    pixels = meshes[..., :2] / meshes[..., 2:] * 100 + 32
    depth = nearest_depth(pixels, meshes[..., 2], faces, 64)
    assert depth[:, 32, 32].tolist() == pytest.approx([1, 1])
    assert depth[:, 5, 5].isinf().all()


def test_what_is_outside_or_behind_the_camera_hides_nothing() -> None:
    corners = torch.stack([square(5, 0, 1, 0.03), square(0, 0, -1, 0.03)])
    point = torch.tensor([[[0, 0, 1.5]], [[0, 0, 1.5]]])
    assert in_front(point, corners, FACES, K, 64, 0.004).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_it_agrees_with_the_rasterizer_on_a_head_that_turns(device: str) -> None:
    head, frames = load_head("open"), 5
    view = MeshView(head, still_fit(head, frames, RASTER), RASTER)
    camera = view.fit.K.astype(np.float32)
    vertices, middles = [], []
    for index, angle in enumerate(np.radians([-50, -20, 0, 25, 60])):
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        points = view.vertices(index) @ turn.T @ view.fit.R[index].T + view.fit.t[index]
        vertices.append(points.astype(np.float32))
        middles.append(points[head.faces.numpy()].mean(axis=1).astype(np.float32))
    here = in_front(torch.from_numpy(np.stack(middles)).to(device), torch.from_numpy(np.stack(vertices)).to(device),
                    head.faces.to(device), torch.from_numpy(camera).to(device), RASTER, DEPTH_SLACK).cpu().numpy()
    theirs = np.stack([_in_front(pair, head.faces.numpy(), camera) for pair in zip(middles, vertices, strict=True)])
    # Only skin that faces the camera is asked for.
    corners = np.stack(vertices)[:, head.faces.numpy()]
    normal = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    sight = np.stack(middles)
    cosine = -(normal * sight).sum(2) / np.linalg.norm(normal, axis=2).clip(1e-12) / np.linalg.norm(sight, axis=2)
    facing = cosine > MIN_FACING
    # Samples fall into this pixel or the next at borders; measured .986 (of seven tenths that are seen).
    assert 0.6 < theirs[facing].mean() < 0.9 and (here == theirs)[facing].mean() > 0.98
