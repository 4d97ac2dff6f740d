"""The familiar interface against `rasterize`, and its spherical harmonics against their laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diff_gaussian_rasterization import DensifyStats, GaussianRasterizationSettings, GaussianRasterizer, rasterize
from diff_gaussian_rasterization.familiar import sh_basis
from torch import Tensor

from tests.rasterizer_scenes import INPUTS, random_scene

WIDTH, HEIGHT = 44, 30


def camera() -> tuple[Tensor, Tensor, Tensor]:
    """R, t and an off-centre K."""
    scene = random_scene(1, 1, WIDTH, HEIGHT, seed=3)
    K = torch.tensor([[50.0, 0, 20], [0, 45, 17], [0, 0, 1]], dtype=torch.float64)
    return scene["R"][0], scene["t"][0], K


def make_settings(**changes: Any) -> GaussianRasterizationSettings:
    """The settings of `camera()`, its matrices written out as other code does (near 0.01, far 100)."""
    R, t, K = camera()
    view = torch.eye(4, dtype=torch.float64)
    view[:3, :3], view[:3, 3] = R, t
    projection = torch.zeros(4, 4, dtype=torch.float64)
    projection[0] = torch.tensor([2 * K[0, 0] / WIDTH, 0, 2 * K[0, 2] / WIDTH - 1, 0])
    projection[1] = torch.tensor([0, 2 * K[1, 1] / HEIGHT, 2 * K[1, 2] / HEIGHT - 1, 0])
    projection[2], projection[3, 2] = torch.tensor([0, 0, 100 / 99.99, -1 / 99.99]), 1
    values: dict[str, Any] = {
        "image_height": HEIGHT,
        "image_width": WIDTH,
        "tanfovx": WIDTH / (2 * K[0, 0].item()),
        "tanfovy": HEIGHT / (2 * K[1, 1].item()),
        "bg": torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64),
        "scale_modifier": 1.0,
        "viewmatrix": view.T,
        "projmatrix": (projection @ view).T,
        "sh_degree": 3,
        "campos": -R.T @ t,
        "prefiltered": False,
        "debug": False,
    }
    return GaussianRasterizationSettings(**(values | changes))


def gaussians() -> dict[str, Any]:
    """Familiar arguments of 90 Gaussians, as leaves."""
    scene = random_scene(1, 90, WIDTH, HEIGHT)
    named = {
        "means3D": scene["means"][0],
        "means2D": torch.zeros(90, 3, dtype=torch.float64),
        "opacities": scene["opacities"][0, :, None],
        "colors_precomp": scene["colors"][0],
        "scales": scene["scales"][0],
        "rotations": scene["quats"][0],
    }
    return {name: tensor.clone().requires_grad_() for name, tensor in named.items()}


def inputs_of(g: dict[str, Any]) -> dict[str, Any]:
    """The same Gaussians and `camera()` as arguments of `rasterize`."""
    gaussian = (g["means3D"], g["rotations"], g["scales"], g["opacities"][:, 0], g["colors_precomp"])
    batch = [tensor[None] for tensor in (*gaussian, *camera())]
    background = make_settings().bg
    return dict(zip(INPUTS, batch, strict=True)) | {"width": WIDTH, "height": HEIGHT, "background": background}


def test_draws_what_rasterize_draws():
    g = gaussians()
    color, radii = GaussianRasterizer(make_settings(scale_modifier=1.5))(**g)
    wanted = rasterize(**inputs_of(g | {"scales": 1.5 * g["scales"]}))
    assert torch.allclose(color, wanted.image[0], atol=1e-12)  # K went through two matrices: some roundings
    assert torch.equal(radii, wanted.radii[0])
    assert color.shape == (3, HEIGHT, WIDTH)
    assert radii.max() > 0


def test_screen_space_gradients_are_those_of_the_statistics():
    g = gaussians()
    color, _ = GaussianRasterizer(make_settings())(**g)
    v = torch.randn(color.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    color.backward(v)
    screen = g["means2D"].grad
    assert all(tensor.grad.abs().max() > 0 for tensor in g.values())
    stats = DensifyStats.zeros(90)
    rasterize(**inputs_of(g), stats=stats).image.backward(v[None])
    assert torch.allclose(screen[:, :2].norm(dim=-1).float(), stats.grad_sum, rtol=1e-5)
    assert (screen[:, 2] == 0).all()


def test_a_splat_lands_where_the_projection_matrix_says():
    g, settings = gaussians(), make_settings(sh_degree=0, bg=torch.zeros(3, dtype=torch.float64))
    one = {name: tensor[:1].detach().clone() for name, tensor in g.items()}
    one["means3D"] = torch.tensor([[0.1, -0.05, 0.2]], dtype=torch.float64)
    one["scales"], one["opacities"] = torch.full((1, 3), 1e-3).double(), torch.ones(1, 1).double()
    clip = torch.cat([one["means3D"], torch.ones(1, 1)], 1) @ settings.projmatrix
    ndc = clip[0, :2] / clip[0, 3]
    wanted = ((ndc + 1) * torch.tensor([WIDTH, HEIGHT]) - 1) / 2
    weight = GaussianRasterizer(settings)(**one)[0].sum(0)
    ys, xs = torch.meshgrid(torch.arange(HEIGHT).double(), torch.arange(WIDTH).double(), indexing="ij")
    centre = torch.stack([(weight * xs).sum(), (weight * ys).sum()]) / weight.sum()
    # The centroid of a splat of half a pixel that is cut at 1/255 and sampled at pixels.
    assert torch.allclose(centre, wanted, atol=0.05)


@pytest.mark.parametrize("degree", range(4))
def test_colors_come_from_spherical_harmonics(degree):
    g, settings = gaussians(), make_settings(sh_degree=degree)
    shs = torch.randn(90, 16, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shs.requires_grad_()
    directions = torch.nn.functional.normalize(g["means3D"] - settings.campos, dim=-1)
    count = (degree + 1) ** 2
    colors = (0.5 + torch.einsum("nj,njc->nc", sh_basis(directions, degree), shs[:, :count])).clamp(min=0)
    wanted = GaussianRasterizer(settings)(**(g | {"colors_precomp": colors}))[0]
    got = GaussianRasterizer(settings)(**(g | {"colors_precomp": None, "shs": shs}))[0]
    assert torch.allclose(got, wanted, atol=1e-14)
    got.sum().backward()
    assert shs.grad is not None
    assert (shs.grad[:, count:] == 0).all()
    assert shs.grad[:, :count].abs().max() > 0


def test_spherical_harmonics_are_orthonormal_and_signed_as_usual():
    # Gauss-Legendre in z times equal steps in angle integrates polynomials of degree 6 exactly.
    z, weights = np.polynomial.legendre.leggauss(8)
    angles = 2 * math.pi * np.arange(16) / 16
    ring = np.sqrt(1 - z[:, None] ** 2)
    points = np.stack([ring * np.cos(angles), ring * np.sin(angles), np.broadcast_to(z[:, None], (8, 16))], -1)
    basis = sh_basis(torch.from_numpy(points.reshape(-1, 3)), 3)
    area = torch.from_numpy(np.repeat(weights, 16) * 2 * math.pi / 16)
    assert torch.allclose(basis.T @ (area[:, None] * basis), torch.eye(16, dtype=torch.float64), atol=1e-12)
    first = sh_basis(torch.eye(3, dtype=torch.float64), 1)[:, 1:]
    assert torch.equal(first.sign(), torch.tensor([[0, 0, -1], [-1, 0, 0], [0, 1, 0]], dtype=torch.float64))


def test_mark_visible():
    R, t, _ = camera()
    depths = torch.tensor([-1.0, 0.1999, 0.2001, 5.0], dtype=torch.float64)
    in_camera = torch.stack([torch.zeros(4), torch.zeros(4), depths], -1)
    visible = GaussianRasterizer(make_settings()).markVisible((in_camera - t) @ R)
    assert visible.tolist() == [False, False, True, True]
