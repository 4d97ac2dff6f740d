"""The C++ rasterizer against its pure-torch definition, finite differences, itself, and captured splats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diff_gaussian_rasterization import DensifyStats, RasterizeOutput, rasterize
from diff_gaussian_rasterization.familiar import sh_basis
from torch import Tensor

from tests.rasterizer_scenes import INPUTS, backgrounds, random_scene, smooth_scene, upstream

CAPTURED = Path(__file__).resolve().parents[2] / "shared" / "data" / "captured" / "head_512.npz"

# (B, N, W, H): sizes below, at and above one tile and not multiples of it; no, one and many Gaussians.
SHAPES = [
    (1, 0, 20, 9),
    (1, 1, 16, 16),
    (2, 7, 1, 1),
    (1, 60, 33, 17),
    (3, 40, 15, 50),
    (2, 250, 64, 48),
    (1, 400, 5, 70),
]


needs_captured = pytest.mark.skipif(not CAPTURED.exists(), reason="captured splats are not part of the repository")


def captured_scene() -> tuple[dict[str, Any], Tensor, Tensor]:
    """Splats of a trained head, and the image and alpha that the reference drew of them at 512x512."""
    data = np.load(CAPTURED)
    scene: dict[str, Any] = {name: torch.from_numpy(data[name].astype(np.float32))[None] for name in INPUTS[:4]}
    w2c = torch.from_numpy(data["w2c"])
    scene |= {"R": w2c[None, :3, :3], "t": w2c[None, :3, 3], "K": torch.from_numpy(data["K"])[None]}
    directions = torch.nn.functional.normalize(scene["means"][0] + w2c[:3, :3].T @ w2c[:3, 3], dim=-1)
    sh = torch.from_numpy(data["sh"].astype(np.float32))
    scene["colors"] = (0.5 + torch.einsum("nj,njc->nc", sh_basis(directions, 3), sh)).clamp(min=0)[None]
    image, alpha = (torch.from_numpy(data[name].astype(np.float32)) for name in ("image", "alpha"))
    return scene, image, alpha


def gradients(
    scene: dict[str, Any], size: tuple[int, int], background: Tensor | None, **options: Any
) -> dict[str, Any]:
    """Gradients of every input under random upstream gradients of image and alpha, and the outputs themselves."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in scene.items()}
    inputs = dict(leaves)
    if background is not None:
        leaves["background"] = inputs["background"] = background.detach().clone().requires_grad_()
    output = rasterize(**inputs, width=size[0], height=size[1], **options)
    v = [v.to(output.image.dtype) for v in upstream(len(scene["R"]), *size)]
    values = torch.autograd.grad([output.image, output.alpha], list(leaves.values()), v)
    return dict(zip(leaves, values, strict=True)) | output._asdict()


def assert_close(got: Tensor, wanted: Tensor, tolerance: float, name: str) -> None:
    """Largest difference within `tolerance` of the largest value (at least 1e-3, so that zeros compare)."""
    assert got.shape == wanted.shape, name
    assert got.isfinite().all(), name
    if got.numel():
        error = (got - wanted).abs().max().item() / max(wanted.abs().max().item(), 1e-3)
        assert error <= tolerance, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["black", "color", "per frame", "image"])
def test_values_and_gradients_match_the_definition(shape, kind):
    batch, count, *size = shape
    scene, background = random_scene(batch, count, *size), backgrounds(batch, *size)[kind]
    wanted = gradients(scene, size, background, backend="torch")
    got = gradients(scene, size, background, backend="cpp")
    for name in wanted:
        # Double precision on both sides, sums of at most some 1e5 terms: rounding is below 1e-11 (measured 1e-14).
        assert_close(got[name], wanted[name], 1e-10, name)


def test_opaque_layers_stop_like_the_definition():
    scene = random_scene(1, 300, 40, 24)
    scene["scales"] = scene["scales"] * 8
    scene["opacities"] = 0.5 + 0.6 * scene["opacities"]  # up to 1.1: alpha is capped at 0.99
    wanted = gradients(scene, (40, 24), None, backend="torch")
    assert (wanted["alpha"] > 0.9998).float().mean() > 0.5, (
        "most pixels must reach the stop for this test to mean something"
    )
    got = gradients(scene, (40, 24), None, backend="cpp")
    for name in wanted:
        assert_close(got[name], wanted[name], 1e-9, name)  # T down to 1e-4 loses four of sixteen digits


def test_gradients_match_finite_differences():
    scene, background = smooth_scene(2, 4, 18, 3), backgrounds(2, 18, 3)["image"]  # two tiles
    leaves = [tensor.requires_grad_() for tensor in (*scene.values(), background)]

    def draw(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named: dict[str, Any] = dict(zip((*scene, "background"), tensors, strict=True))
        return rasterize(**named, width=18, height=3, backend="cpp")[:2]

    # Central differences with step 1e-6 err by about 1e-9 (rounding over step) to 1e-8 (curvature).
    assert torch.autograd.gradcheck(draw, leaves, eps=1e-6, atol=1e-6, rtol=1e-6)


def test_gradients_follow_the_limit_of_the_jacobian():
    # Wide Gaussians whose centres lie beyond 1.3 tan(fov / 2) in x and y: the ratio is clamped to a limit set by K.
    scene = smooth_scene(1, 2, 18, 5)
    scene["means"] = torch.tensor([[[2.0, -2.0, 0.2], [-1.9, 1.8, 0.1]]], dtype=torch.float64)
    scene["scales"] = scene["scales"] * 2
    scene["opacities"] = torch.full((1, 2), 0.9, dtype=torch.float64)
    assert (rasterize(**scene, width=18, height=5).alpha > 2 / 255).all(), "cuts must be far"
    leaves = [tensor.requires_grad_() for tensor in scene.values()]

    def draw(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named: dict[str, Any] = dict(zip(scene, tensors, strict=True))
        return rasterize(**named, width=18, height=5)[:2]

    assert torch.autograd.gradcheck(draw, leaves, eps=1e-6, atol=1e-6, rtol=1e-6)


def test_no_gradient_where_alpha_is_capped():
    scene = smooth_scene(1, 1)
    scene["scales"] = scene["scales"] * 20
    scene["opacities"] = torch.full((1, 1), 1.0, dtype=torch.float64)
    got = gradients(scene, (18, 17), None)
    assert torch.allclose(got["alpha"], torch.full_like(got["alpha"], 0.99), atol=1e-12)
    for name in ("means", "quats", "scales", "opacities", "R", "t", "K"):
        assert (got[name] == 0).all(), name
    assert got["colors"].abs().min() > 0


@pytest.mark.parametrize("make", [random_scene, smooth_scene])
def test_single_precision_stays_near_double(make):
    scene = make(2, 6 if make is smooth_scene else 300, 96, 80)
    background = backgrounds(2, 96, 80)["per frame"]
    wanted = gradients(scene, (96, 80), background)
    got = gradients({name: tensor.float() for name, tensor in scene.items()}, (96, 80), background.float())
    for name, value in got.items():
        error = (value.double() - wanted[name]).norm() / wanted[name].double().norm()
        # Smooth: a few hundred roundings of 6e-8. Else rounding decides a few of 1e5 cuts at alpha = 1/255 differently,
        # each worth up to 1/255 of a pixel: measured below 2e-3.
        assert error < (1e-5 if make is smooth_scene else 1e-2), (name, error)


def test_results_do_not_depend_on_the_number_of_threads():
    scene = {name: tensor.float() for name, tensor in random_scene(3, 3000, 80, 70).items()}
    background, before = torch.rand(3), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(gradients(scene, (80, 70), background))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for name, value in result.items():
            assert torch.equal(value, results[0][name]), name


def test_the_picture_is_the_same_where_no_gradients_are_wanted():
    scene = random_scene(2, 60, 33, 17)
    wanted = rasterize(**{name: tensor.clone().requires_grad_() for name, tensor in scene.items()}, width=33, height=17)
    with torch.no_grad():
        silent = rasterize(**{n: tensor.clone().requires_grad_() for n, tensor in scene.items()}, width=33, height=17)
    for output in (silent, rasterize(**scene, width=33, height=17)):
        assert not output.image.requires_grad
        assert all(torch.equal(got, part) for got, part in zip(output, wanted, strict=True))
    assert wanted.image.requires_grad and wanted.alpha.requires_grad and not wanted.radii.requires_grad


def test_a_batch_equals_its_frames_one_by_one():
    scene = random_scene(3, 120, 40, 30)
    together = rasterize(**scene, width=40, height=30)
    for frame in range(3):
        alone = rasterize(**{name: tensor[frame : frame + 1] for name, tensor in scene.items()}, width=40, height=30)
        for got, wanted in zip(together, alone, strict=True):
            assert torch.equal(got[frame], wanted[0])


def test_nearer_splats_cover_farther_ones_and_equal_depths_keep_their_order():
    scene = smooth_scene(1, 3)
    scene["means"] = torch.tensor([[[0.0, 0, 0.5], [0.0, 0, 0.1], [0.0, 0, 0.1]]], dtype=torch.float64)
    scene["R"], scene["t"] = torch.eye(3).double()[None], torch.tensor([[0, 0, 1.5]]).double()
    scene["opacities"] = torch.tensor([[1.5, 1.5, 0.9]], dtype=torch.float64)  # 1.5 is capped at 0.99 everywhere
    scene["scales"] = scene["scales"] * 20
    scene["colors"] = torch.eye(3, dtype=torch.float64)[None]
    image = rasterize(**scene, width=18, height=17).image[0, :, 8, 8]
    # Index 1 in front: 0.99; then index 2 of the same depth: 0.01 * 0.9 (a little less: its splat is wide, not flat).
    # That leaves T = 1e-3; the far one would bring it to 1e-5, below 1e-4.
    assert image[0] == 0
    assert torch.allclose(image[1:], torch.tensor([0.99, 0.009], dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_non_finite_gaussians_are_skipped(name, value, backend):
    scene = random_scene(1, 50, 32, 20)
    wanted = gradients(
        {key: tensor[:, :49] if key in INPUTS[:5] else tensor for key, tensor in scene.items()}, (32, 20), None
    )
    scene[name][0, 49].fill_(value) if scene[name].ndim == 2 else scene[name][0, 49, 1:2].fill_(value)
    got = gradients(scene, (32, 20), None, backend=backend)
    for key in ("image", "alpha", "R", "t", "K"):
        assert_close(got[key], wanted[key], 1e-10, key)
    for key in INPUTS[:5]:
        assert_close(got[key][:, :49], wanted[key], 1e-10, key)
        assert (got[key][:, 49] == 0).all(), key
    assert got["radii"][0, 49] == 0


INVISIBLE: dict[str, dict[str, Any]] = {
    "behind the camera": {"means": [0.0, 0, -3.0]},
    "on the near plane": {"means": [0.0, 0, -1.3]},  # z = 0.2 exactly is skipped
    "beside the picture": {"means": [9.0, 0, 0.0]},
    "transparent": {"opacities": 0.0},
    "below the alpha cut": {"opacities": 0.0039},
    "negative opacity": {"opacities": -1.0},
    "overflowing": {"scales": [1e200, 1e200, 1e200]},
}


@pytest.mark.parametrize("case", INVISIBLE)
def test_invisible_gaussians_leave_no_trace(case):
    scene = smooth_scene(1, 1)
    scene["R"], scene["t"] = torch.eye(3).double()[None], torch.tensor([[0, 0, 1.5]]).double()
    scene["scales"] = scene["scales"] * 0.1
    for name, value in INVISIBLE[case].items():
        scene[name] = torch.tensor(value, dtype=torch.float64).expand_as(scene[name]).clone()
    background = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    got = gradients(scene, (18, 17), background)
    assert (got["image"] == background[:, None, None]).all()
    assert (got["alpha"] == 0).all()
    assert got["radii"].item() == 0
    assert all((got[name] == 0).all() for name in INPUTS)


def test_a_gaussian_of_no_size_is_drawn_as_the_smallest_splat():
    scene = smooth_scene(1, 1, 17, 17)
    scene |= {"means": torch.zeros(1, 1, 3).double(), "scales": torch.zeros(1, 1, 3).double()}
    scene |= {"R": torch.eye(3).double()[None], "t": torch.tensor([[0, 0, 1.0]]).double()}
    scene["K"] = torch.tensor([[[20.0, 0, 8.5], [0, 20, 8.5], [0, 0, 1]]]).double()
    alpha = rasterize(**scene, width=17, height=17).alpha[0]
    assert alpha[8, 8] == pytest.approx(scene["opacities"].item(), abs=1e-12)
    # The dilation alone: a variance of 0.3 pixels^2.
    assert alpha[8, 9] == pytest.approx(scene["opacities"].item() * np.exp(-0.5 / 0.3), abs=1e-12)


def test_a_huge_gaussian_covers_every_tile():
    scene = {name: tensor.float() for name, tensor in smooth_scene(1, 1, 100, 70).items()}
    scene["scales"] = torch.tensor([[[1e6, 1e3, 1e-3]]])
    scene["quats"] = torch.nn.functional.normalize(scene["quats"], dim=-1)
    got = gradients(scene, (100, 70), None)
    assert torch.allclose(got["alpha"], scene["opacities"].expand_as(got["alpha"]), atol=2e-3)
    assert all(got[name].isfinite().all() for name in INPUTS)


def test_a_broken_camera_shows_the_background():
    scene = random_scene(2, 30, 20, 20)
    scene["K"][1, 0, 0] = float("nan")
    output = rasterize(**scene, width=20, height=20, background=torch.ones(3).double())
    assert (output.image[1] == 1).all()
    assert output.alpha[0].max() > 0


def draw_with_stats(scene: dict[str, Any], stats: DensifyStats, v: list[Tensor]) -> tuple[RasterizeOutput, Tensor]:
    """One forward and backward pass; returns the output and the screen-space gradient [B,N,2]."""
    batch, count = scene["opacities"].shape
    means2d = torch.full((batch, count, 2), 3.0, dtype=scene["means"].dtype, requires_grad=True)
    output = rasterize(**scene, width=40, height=24, stats=stats, means2d=means2d)
    torch.autograd.backward([output.image, output.alpha], v)
    assert means2d.grad is not None
    return output, means2d.grad


def test_densification_statistics():
    scene, v = random_scene(3, 80, 40, 24), upstream(3, 40, 24)
    stats = DensifyStats.zeros(80)
    output, screen = draw_with_stats(scene, stats, v)
    reference = torch.zeros(3, 80, 2, dtype=torch.float64, requires_grad=True)
    image = rasterize(**scene, width=40, height=24, backend="torch", means2d=reference).image
    image.backward(v[0])  # without the alpha output
    assert reference.grad is not None
    # The torch twin is exact to 1e-12; the statistics are kept in single precision.
    assert_close(screen, reference.grad, 1e-10, "screen")
    assert_close(stats.grad_sum, reference.grad.norm(dim=-1).sum(0).float(), 1e-6, "grad_sum")
    assert torch.equal(stats.count, (output.radii > 0).sum(0).float())
    assert torch.equal(stats.max_radius, output.radii.max(0).values.float())
    first = stats.grad_sum.clone()
    draw_with_stats(scene, stats, v)
    assert_close(stats.grad_sum, 2 * first, 1e-6, "second pass")
    assert torch.equal(stats.max_radius, output.radii.max(0).values.float())


def test_the_alpha_output_does_not_densify():
    scene, v = random_scene(1, 50, 40, 24), upstream(1, 40, 24)
    scene["means"].requires_grad_()
    stats = DensifyStats.zeros(50)
    _, screen = draw_with_stats(scene, stats, [torch.zeros_like(v[0]), v[1]])
    assert scene["means"].grad.abs().max() > 0
    # What remains is the difference of equal sums.
    assert screen.abs().max() < 1e-12 * scene["means"].grad.abs().max()


@needs_captured
def test_captured_splats_look_as_the_reference_drew_them():
    scene, image, alpha = captured_scene()
    output = rasterize(**scene, width=512, height=512)
    for got, wanted, name in ((output.image[0], image, "image"), (output.alpha[0], alpha, "alpha")):
        error = ((got - wanted) ** 2).mean()
        # Measured 82.0 and 79.7 dB: half-precision storage alone allows 78; the reference also cuts splats at 3 sigma.
        assert -10 * torch.log10(error) > 75, name
