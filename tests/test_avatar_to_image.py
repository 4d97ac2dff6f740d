"""The whole road from learnable tables and codes to pixels, in double precision.

The native path (factored gradients of the differences, C++ rasterizer) against the pure-torch definitions and against
finite differences. Every Gaussian covers the whole small picture well above the alpha cut and the picture never
saturates, so the loss is smooth where it is differentiated: the cuts at 1/255 and at transmittance 1e-4 are jumps,
about which derivatives say nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import blendshape_ops as ops
import pytest
import torch
from blendshape_ops import blend_pose_color
from blendshape_ops.reference import pair_gradient_torch
from diff_gaussian_rasterization import rasterize
from torch import Tensor

from tests.blendshape_ops_scene import Scene, make_scene

WIDTH, HEIGHT, FRAMES = 11, 9, 2


def smooth_scene() -> Scene:
    """Twelve large, faint Gaussians around the origin."""
    scene = make_scene(gaussians=12, expressions=4, frames=FRAMES, seed=3)
    scene.neutral[:, ops.MEANS] *= 0.1
    scene.neutral[:, ops.LOG_SCALES] = scene.neutral[:, ops.LOG_SCALES] * 0.05 + 0.3
    scene.neutral[:, ops.OPACITY] = -1.5
    scene.binding.anchor.mul_(0.1)
    scene.drive.camera_centers.copy_(torch.tensor([[0.0, 0.0, -6.0], [0.2, -0.1, -6.0]]))
    return scene


def loss_of(scene: Scene, backend: str) -> Tensor:
    """A random linear functional of picture and alpha."""
    posed = blend_pose_color(scene.neutral, scene.differences, scene.binding, scene.drive, 3, backend=backend)
    eye = torch.eye(3, dtype=torch.float64).expand(FRAMES, 3, 3)
    K = torch.tensor([[30.0, 0, 5.2], [0, 31.0, 4.6], [0, 0, 1]], dtype=torch.float64).expand(FRAMES, 3, 3)
    output = rasterize(posed.means, posed.quats, posed.scales, posed.opacities, posed.colors, eye,
                       -scene.drive.camera_centers, K, WIDTH, HEIGHT,
                       background=torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), backend=backend)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(output.image.shape, generator=generator, dtype=torch.float64)
    alpha_weights = torch.randn(output.alpha.shape, generator=generator, dtype=torch.float64)
    return (output.image * weights).sum() + (output.alpha * alpha_weights).sum()


def gradients(backend: str) -> dict[str, Tensor]:
    scene = smooth_scene()
    drive = replace(scene.drive, **{name: getattr(scene.drive, name).requires_grad_() for name in ("beta", "bones")})
    scene = replace(scene, drive=drive)
    scene.neutral.requires_grad_()
    if backend == "torch":
        scene.differences.values.requires_grad_()
    loss_of(scene, backend).backward()
    values = scene.differences.values.grad if backend == "torch" else pair_gradient_torch(scene.differences)
    found = {"neutral": scene.neutral.grad, "differences": values, "beta": drive.beta.grad, "bones": drive.bones.grad}
    return {name: tensor.detach() for name, tensor in found.items() if tensor is not None}


def test_native_gradients_equal_the_definition() -> None:
    native, definition = gradients("cpp"), gradients("torch")
    assert native.keys() == definition.keys() == {"neutral", "differences", "beta", "bones"}
    for name, expected in definition.items():
        assert float(expected.abs().max()) > 1e-3, name
        # double precision through about a thousand operations; measured 1e-13
        error = float((native[name] - expected).abs().max() / expected.abs().max())
        assert error < 1e-11, (name, error)


def moved(scene: Scene, name: str, step: Tensor) -> Scene:
    if name == "neutral":
        return replace(scene, neutral=scene.neutral + step)
    if name == "differences":
        return replace(scene, differences=replace(scene.differences, values=scene.differences.values + step))
    return replace(scene, drive=replace(scene.drive, **{name: getattr(scene.drive, name) + step}))


def central_difference(function: Callable[[float], Tensor], size: float) -> float:
    return float(((function(size) - function(-size)) / (2 * size)).detach())


@pytest.mark.parametrize("name", ["neutral", "differences", "beta", "bones"])
def test_native_gradients_equal_finite_differences(name: str) -> None:
    gradient = gradients("cpp")[name]
    scene = smooth_scene()
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
        if name in ("neutral", "differences"):
            direction[:, -1] = 0  # the pad is no parameter
        slope = central_difference(lambda s, d=direction: loss_of(moved(scene, name, s * d), "cpp"), 1e-5)  # type: ignore[misc]
        # truncation of the central difference: step^2 times a third derivative of order one to a hundred
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-6, abs=1e-7)
