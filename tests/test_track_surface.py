"""The mathematics under the fit: points on the surface with their derivatives, and the linear system of a clip."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from flame import load_head, pose_head
from flame.rotations import matrix_to_6d
from tests.heads import random_head
from tracking import normal_equations
from tracking.normal_equations import NormalEquations, NotPositiveError, Solver
from tracking.surface import Codes, SurfacePoints, turns_of


@pytest.fixture(scope="module")
def head():
    return load_head("open")


def codes_of(n_expression, frames=3):
    draw = torch.Generator().manual_seed(4)
    return Codes(torch.rand(frames, n_expression, generator=draw), 0.3 * torch.randn(frames, 3, generator=draw),
                 0.2 * torch.randn(frames, 4, generator=draw), torch.rand(frames, 2, generator=draw))


@pytest.mark.parametrize("which", ["open", "with pose correctives and dense weights"])
def test_points_are_where_the_posed_mesh_has_them(which, head):
    model = head if which == "open" else random_head(1)
    rng = np.random.default_rng(0)
    triangle, share = rng.integers(0, model.n_faces, 60), rng.dirichlet([1, 1, 1], 60)
    points = SurfacePoints(model, triangle, share, model.n_shape, "cpu")
    shape, codes = torch.randn(model.n_shape, generator=torch.Generator().manual_seed(5)), codes_of(model.n_expression)
    turns = turns_of(codes)
    posed = pose_head(model, shape, codes.expression, matrix_to_6d(turns.rotation[:, 0]),
                      matrix_to_6d(turns.rotation[:, 1:]).flatten(1), codes.lids)
    wanted = torch.einsum("lc,tlcd->tld", torch.from_numpy(share).float(), posed.vertices[:, model.faces[triangle]])
    # float32 sums of some 150 terms of a metre at most
    torch.testing.assert_close(points.place(shape, codes, turns), wanted, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("which", ["open", "with pose correctives and dense weights"])
def test_points_move_as_their_derivatives_say(which, head):
    model = head if which == "open" else random_head(1)
    triangle = np.arange(0, model.n_faces, max(1, model.n_faces // 50))
    points = SurfacePoints(model, triangle, np.full((len(triangle), 3), 1 / 3), model.n_shape, "cpu")
    shape, codes = torch.zeros(model.n_shape), codes_of(model.n_expression)
    flat = torch.cat([codes.expression, codes.jaw, codes.eyes, codes.lids], 1)
    step = 1e-2 * torch.eye(flat.shape[1])

    def place(values):
        moved = Codes(*values.split([model.n_expression, 3, 4, 2], 1))
        return points.place(shape, moved, turns_of(moved))

    numeric = torch.stack([(place(flat + row) - place(flat - row)) / 2e-2 for row in step], -1)
    # central differences: rounding 1e-7 / 1e-2, curvature step^2 / 6 of the arm's length
    rows = torch.eye(3).expand(len(flat), len(points), 3, 3)
    found = torch.full((*rows.shape[:3], flat.shape[1] + model.n_shape), torch.nan)  # what is not written is seen
    points.derivative(rows, shape, codes, turns_of(codes), found)
    torch.testing.assert_close(found[..., :flat.shape[1]], numeric, atol=1e-4, rtol=1e-4)
    without = torch.full_like(numeric, torch.nan)
    points.derivative(rows, shape, codes, turns_of(codes), without)
    torch.testing.assert_close(without, found[..., :flat.shape[1]])
    at = points.place(shape, codes, turns_of(codes))
    by_shape = torch.stack([points.place(row, codes, turns_of(codes)) - at for row in torch.eye(model.n_shape)], -1)
    torch.testing.assert_close(found[..., flat.shape[1]:], by_shape, atol=2e-6, rtol=2e-5)


def system(frames, unknowns=4, shared=3):
    """Random equations with something held, and the whole damped (0.1) matrix that they stand for."""
    rng = np.random.default_rng(frames)

    def drawn(*size, scale=1.0):
        return torch.from_numpy(rng.normal(scale=scale, size=size))

    equations = NormalEquations.zeros(frames, unknowns, shared)
    mixed = drawn(frames, 12, unknowns + shared)
    full = mixed.mT @ mixed
    equations.blocks[:], equations.border[:] = full[:, :unknowns, :unknowns], full[:, :unknowns, unknowns:]
    equations.shared[:] = full[:, unknowns:, unknowns:].sum(0)
    equations.gradient[:], equations.shared_gradient[:] = drawn(frames, unknowns), drawn(shared)
    equations.next[:], equations.after_next[:] = drawn(2, frames, unknowns, scale=0.1)
    held, shared_held = torch.from_numpy(rng.random((frames, unknowns)) < 0.2), torch.tensor([False, True, False])
    equations = equations.holding(held, shared_held)
    count = frames * unknowns
    dense = np.zeros((count + shared, count + shared))
    for t in range(frames):
        own = slice(t * unknowns, (t + 1) * unknowns)
        dense[own, own], dense[own, count:] = equations.blocks[t], equations.border[t]
        dense[count:, own] = equations.border[t].T
        for reach, band in ((1, equations.next), (2, equations.after_next)):
            if t + reach < frames:
                there = slice((t + reach) * unknowns, (t + reach + 1) * unknowns)
                dense[own, there] = dense[there, own] = np.diag(band[t])
    dense[count:, count:] = equations.shared
    return equations, dense + 0.1 * np.diag(np.diag(dense)), held


class Halves:
    """`Chain` as a GPU solves it."""

    def __init__(self, blocks: torch.Tensor, couplings: torch.Tensor) -> None:
        self.solved = partial(normal_equations.eliminated_by_halves, blocks, couplings)


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("by_halves", [False, True])
def test_step_solves_the_whole_system(frames, by_halves, monkeypatch):
    if by_halves:  # as on a GPU
        monkeypatch.setattr(normal_equations, "Chain", Halves)
    equations, dense, held = system(frames)
    step, common = Solver(equations, 0.1).step(equations.gradient, equations.shared_gradient)
    wanted = np.linalg.solve(dense, -np.concatenate([equations.gradient.ravel(), equations.shared_gradient]))
    np.testing.assert_allclose(np.concatenate([step.ravel(), common]), wanted, atol=1e-9)  # double precision
    assert not step[held].any()
    assert common[1] == 0


@pytest.mark.parametrize("by_halves", [False, True])
def test_indefinite_system_is_refused(by_halves, monkeypatch):
    if by_halves:
        monkeypatch.setattr(normal_equations, "Chain", Halves)
    for frames in (2, 5):
        with pytest.raises(NotPositiveError):
            Solver(NormalEquations.zeros(frames, 3, 1), 1e-3)
