"""The familiar interface against `rasterize`, and its spherical harmonics against their laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diff_gaussian_rasterization import (
    DensifyStats,
    GaussianRasterizationSettings,
    GaussianRasterizer,
    SparseGaussianAdam,
    rasterize,
    rasterize_gaussians,
)
from diff_gaussian_rasterization.definition import quats_to_matrices
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


def defined(g: dict[str, Any], opacities: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
    """(image without background, alpha) of `camera()` by the definition."""
    inputs = inputs_of(g) | {"opacities": opacities[None], "colors": colors[None], "background": None}
    output = rasterize(**inputs, backend="torch")
    return output.image[0], output.alpha[0]


def compensated(g: dict[str, Any]) -> Tensor:
    """Opacities times sqrt(det / det') of the 2D covariance without and with 0.3 pixels^2 on its diagonal."""
    R, t, K = camera()
    factors = []
    for mean, quat, scale in zip(g["means3D"], g["rotations"], g["scales"], strict=True):
        x, y, z = R @ mean + t
        limit = 1.3 * torch.tensor([WIDTH / (2 * K[0, 0]), HEIGHT / (2 * K[1, 1])])
        u, v = (torch.minimum(torch.maximum(c / z, -m), m) for c, m in ((x, limit[0]), (y, limit[1])))
        J = K[:2, :2] @ torch.stack([torch.stack([1 / z, 0 * z, -u / z]), torch.stack([0 * z, 1 / z, -v / z])])
        spread = quats_to_matrices(quat) @ torch.diag(scale)
        covariance = J @ R @ spread @ spread.T @ R.T @ J.T
        dilated = covariance + 0.3 * torch.eye(2, dtype=torch.float64)
        ratio = torch.linalg.det(covariance) / torch.linalg.det(dilated)
        factors.append(torch.sqrt(ratio) if z > 0.2 and ratio > 1e-6 else torch.tensor(1e-3))
    return g["opacities"][:, 0] * torch.stack(factors)


def gradients_of(loss: Tensor, g: dict[str, Any]) -> dict[str, Tensor]:
    names = [name for name in g if name != "means2D"]
    found = torch.autograd.grad(loss, [g[name] for name in names], allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def test_code_of_both_generations_unpacks_what_it_expects():
    g = gaussians()
    color, radii = GaussianRasterizer(make_settings())(**g)
    same, same_radii, depth = GaussianRasterizer(make_settings(antialiasing=False))(**g)
    assert torch.equal(color, same) and torch.equal(radii, same_radii)
    assert depth.shape == (1, HEIGHT, WIDTH)
    assert len(GaussianRasterizer(make_settings(antialiasing=True, debug=True, prefiltered=True))(**g)) == 3


def test_inverse_depth_and_its_gradients_are_those_of_the_definition():
    g = gaussians()
    R, t, _ = camera()
    depth = GaussianRasterizer(make_settings(antialiasing=False))(**g)[2][0]
    z = (g["means3D"] @ R.T + t)[:, 2]
    inverse = torch.where(z > 0.2, 1 / z, 0)
    wanted = defined(g, g["opacities"][:, 0], inverse[:, None].expand(-1, 3))[0][0]
    assert wanted.max() > 0.3
    assert torch.allclose(depth, wanted, atol=1e-12)
    v = torch.randn(depth.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    got = gradients_of((v * depth).sum(), g)
    for name, gradient in gradients_of((v * wanted).sum(), g).items():
        assert torch.allclose(got[name], gradient, rtol=1e-7, atol=1e-9), name
    assert got["means3D"].abs().max() > 0


def test_an_opaque_wall_has_its_own_inverse_depth():
    g = {name: tensor.detach()[:1].clone() for name, tensor in gaussians().items()}
    R, t, _ = camera()
    g["means3D"] = ((torch.tensor([[0, 0, 2.5]]).double() - t) @ R)
    g["scales"], g["opacities"] = torch.full((1, 3), 50.0).double(), torch.ones(1, 1).double()
    depth = GaussianRasterizer(make_settings(antialiasing=False))(**g)[2]
    assert torch.allclose(depth, torch.full_like(depth, 0.99 / 2.5), atol=1e-12)  # alpha is capped at 0.99


def test_antialiasing_and_its_gradients_are_those_of_the_definition():
    g = gaussians()
    with torch.no_grad():
        g["scales"][::2] *= 0.1  # thin ones, which dilation changes most
    color = GaussianRasterizer(make_settings(antialiasing=True))(**g)[0]
    plain = GaussianRasterizer(make_settings(antialiasing=False))(**g)[0]
    image, alpha = defined(g, compensated(g), g["colors_precomp"])
    wanted = image + (1 - alpha) * make_settings().bg[:, None, None]
    assert (color - plain).abs().max() > 0.1
    assert torch.allclose(color, wanted, atol=1e-11)
    v = torch.randn(color.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    got = gradients_of((v * color).sum(), g)
    for name, gradient in gradients_of((v * wanted).sum(), g).items():
        assert torch.allclose(got[name], gradient, rtol=1e-6, atol=1e-8), name


def test_antialiasing_keeps_the_light_of_a_small_splat():
    g = {name: tensor.detach()[:1].clone() for name, tensor in gaussians().items()}
    R, t, K = camera()
    g["means3D"] = ((torch.tensor([[0, 0, 2.0]]).double() - t) @ R)
    g["opacities"], g["colors_precomp"] = torch.full((1, 1), 0.9).double(), torch.ones(1, 3).double()
    g["scales"] = torch.full((1, 3), 0.4 * 2.0 / float(K[0, 0])).double()  # 0.4 pixels
    black = torch.zeros(3, dtype=torch.float64)
    light = GaussianRasterizer(make_settings(antialiasing=True, bg=black))(**g)[0][0].sum()
    wide = GaussianRasterizer(make_settings(antialiasing=False, bg=black))(**g)[0][0].sum()
    wanted = 0.9 * 2 * math.pi * 0.4**2 * float(K[1, 1] / K[0, 0])
    assert abs(float(light) / wanted - 1) < 0.08  # what lies below the cut of 1/255 is missing
    assert float(wide) / wanted > 2


@pytest.mark.parametrize("name", ["means3D", "scales", "rotations"])
def test_what_is_not_drawn_leaves_no_nan_in_gradients(name):
    g = gaussians()
    with torch.no_grad():
        g[name][3] = float("nan")
        g["scales"][4] = 0
        g["means3D"][5] = -camera()[1] @ camera()[0]  # at the camera
    color, _, depth = GaussianRasterizer(make_settings(antialiasing=True))(**g)
    (color.sum() + depth.sum()).backward()
    assert all(tensor.grad.isfinite().all() for tensor in g.values())


@pytest.mark.parametrize("antialiasing", [None, False, True])
def test_no_gaussians_give_the_background(antialiasing):
    g = {name: tensor.detach()[:0].requires_grad_() for name, tensor in gaussians().items()}
    g["colors_precomp"], g["shs"] = None, torch.zeros(0, 16, 3, dtype=torch.float64, requires_grad=True)
    settings = make_settings(antialiasing=antialiasing)
    results = GaussianRasterizer(settings)(**g)
    assert torch.equal(results[0], settings.bg[:, None, None].expand(3, HEIGHT, WIDTH))
    results[0].sum().backward()
    assert g["shs"].grad.shape == (0, 16, 3)
    assert g["means3D"].grad.shape == (0, 3)


def test_the_first_coefficient_may_come_apart():
    g = gaussians() | {"colors_precomp": None}
    shs = torch.randn(90, 16, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    wanted = GaussianRasterizer(make_settings())(**g, shs=shs)[0]
    assert torch.equal(GaussianRasterizer(make_settings())(**g, dc=shs[:, :1], shs=shs[:, 1:])[0], wanted)
    only = GaussianRasterizer(make_settings(sh_degree=0))(**g, dc=shs[:, :1], shs=shs[:, :0])[0]
    assert torch.equal(only, GaussianRasterizer(make_settings(sh_degree=0))(**g, shs=shs)[0])


def test_the_function_takes_empty_tensors_for_what_is_not_given():
    g, none, settings = gaussians(), torch.Tensor([]), make_settings(antialiasing=False)
    positions, shape = (g["means3D"], g["means2D"]), (g["opacities"], g["scales"], g["rotations"], none)
    got = rasterize_gaussians(*positions, none, g["colors_precomp"], *shape, settings)
    assert all(torch.equal(*pair) for pair in zip(got, GaussianRasterizer(settings)(**g), strict=True))


def test_modules_that_other_code_imports():
    from diff_gaussian_rasterization import _C
    from simple_knn._C import distCUDA2

    settings, points = make_settings(), gaussians()["means3D"].detach()
    visible = _C.mark_visible(points, settings.viewmatrix, settings.projmatrix)
    assert torch.equal(visible, GaussianRasterizer(settings).markVisible(points))
    with pytest.raises(AttributeError, match="_C has no 'rasterize_gaussians_backward': .* call GaussianRasterizer or"):
        _C.rasterize_gaussians_backward  # noqa: B018
    assert distCUDA2(points).shape == (90,)


def optimizers(visible: Tensor, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """Two tables after `steps` of sparse Adam with the rows `visible`, and of torch's on those rows alone."""
    generator = torch.Generator().manual_seed(5)
    tables = [torch.randn(6, *shape, generator=generator).double().requires_grad_() for shape in ((3,), (4, 3))]
    dense = [table.detach()[visible].clone().requires_grad_() for table in tables]
    sparse_adam = SparseGaussianAdam([{"params": [t], "lr": 0.01 * (i + 1)} for i, t in enumerate(tables)], 0.0, 1e-15)
    adam = torch.optim.Adam([{"params": [t], "lr": 0.01 * (i + 1)} for i, t in enumerate(dense)], 0.0, eps=1e-15)
    for _ in range(steps):
        for table, rows in zip(tables, dense, strict=True):
            table.grad = torch.randn(table.shape, generator=generator).double()
            rows.grad = table.grad[visible].clone()
            table.grad[~visible] = float("nan")
        sparse_adam.step(visible, 6)
        adam.step()
    return tables, dense


@pytest.mark.parametrize("marks", [[True] * 6, [True, False, True, True, False, False], [False] * 6], ids=str)
def test_sparse_adam_is_adam_on_visible_rows_and_leaves_the_others(marks):
    visible = torch.tensor(marks)
    before, _ = optimizers(visible, 0)
    after, wanted = optimizers(visible, 4)
    for start, end, rows in zip(before, after, wanted, strict=True):
        assert torch.allclose(end[visible], rows, rtol=0, atol=1e-12)
        assert torch.equal(end[~visible], start[~visible])


def test_sparse_adam_names_what_does_not_fit():
    table = torch.zeros(6, 3, requires_grad=True)
    table.grad = torch.ones(6, 3)
    adam = SparseGaussianAdam([{"params": [table], "lr": 0.1, "name": "xyz"}], lr=0.0, eps=1e-15)
    with pytest.raises(ValueError, match=r"visibility: wanted bool \[6\], got torch.int64 \[6\]"):
        adam.step(torch.ones(6, dtype=torch.int64), 6)
    with pytest.raises(ValueError, match="parameter xyz: wanted 5 rows, got 6"):
        adam.step(torch.ones(5, dtype=torch.bool), 5)
