"""A small random scene for the tests of blendshape_ops: every attribute, offset and bone is generic."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from blendshape_ops import Binding, Differences, Drive, Posed, blend_pose_color
from torch import Tensor

SHARED = ("beta", "triangle_maps", "bones", "camera_centers", "pre_offsets", "post_offsets")


@dataclass
class Scene:
    neutral: Tensor
    differences: Differences
    binding: Binding
    drive: Drive


def make_scene(
    gaussians: int = 23,
    expressions: int = 6,
    frames: int = 3,
    triangles: int = 9,
    dtype: torch.dtype = torch.float64,
    density: float = 0.5,
    seed: int = 0,
) -> Scene:
    """About one Gaussian in ten is bound to no triangle; colours lie on both sides of the clamp at 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator).to(dtype)

    vertices, joints = 8, 4
    mask = uniform(gaussians, expressions) * (uniform(gaussians, expressions) < density)
    differences = Differences.from_mask(mask)
    differences.values[:, :59] = 0.1 * normal(differences.values.shape[0], 59)
    neutral = torch.cat([0.5 * normal(gaussians, 59), torch.zeros(gaussians, 1, dtype=dtype)], 1)
    neutral[:, 3] += 1.5
    neutral[:, 7:10] -= 3
    triangle = torch.randint(0, max(triangles, 1), (gaussians,), generator=generator)
    triangle[uniform(gaussians) < (0.1 if triangles else 2)] = -1
    weights = uniform(gaussians, joints)
    binding = Binding(triangle.int(), normal(gaussians, 3), uniform(gaussians, 3), weights / weights.sum(1, True))
    drive = Drive(
        beta=normal(frames, expressions),
        triangle_maps=0.1 * normal(frames, triangles, 16),
        bones=torch.eye(3, 4, dtype=dtype) + 0.1 * normal(frames, joints, 3, 4),
        camera_centers=3 * normal(frames, 3),
        faces=torch.randint(0, vertices, (triangles, 3), generator=generator).int(),
        pre_offsets=0.1 * normal(frames, vertices, 3),
        post_offsets=0.1 * normal(frames, vertices, 3),
    )
    return Scene(neutral, differences, binding, drive)


def cast(scene: Scene, dtype: torch.dtype, device: str = "cpu") -> Scene:
    """The scene with every floating tensor in `dtype` on `device`."""

    def convert(record):
        def one(value):
            if not isinstance(value, Tensor):
                return value
            return value.to(device, dtype) if value.is_floating_point() else value.to(device)

        return {f.name: one(getattr(record, f.name)) for f in fields(record) if f.name != "factors"}

    return Scene(
        scene.neutral.to(device, dtype),
        Differences(**convert(scene.differences)),
        Binding(**convert(scene.binding)),
        Drive(**convert(scene.drive)),
    )


def upstream(posed: Posed, seed: int = 7) -> list[Tensor]:
    """Random gradients of the five results, the same for every dtype and device."""
    generator = torch.Generator().manual_seed(seed)
    like = vars(posed).values()
    return [torch.randn(t.shape, dtype=torch.float64, generator=generator).to(t) for t in like]


def values_and_gradients(scene: Scene, sh_degree: int, backend: str) -> dict[str, Tensor]:
    """Results, and gradients of everything that can have one, for a random upstream gradient."""
    from blendshape_ops.reference import pair_gradient_torch

    given = {name: getattr(scene.drive, name) for name in SHARED}
    leaves = {name: t.clone().requires_grad_() for name, t in given.items() if t is not None}
    neutral = scene.neutral.clone().requires_grad_()
    old = scene.differences
    values = old.values.clone().requires_grad_(backend == "torch")
    differences = Differences(values, old.offsets, old.gaussian, old.expression, old.mask)
    drive = replace(scene.drive, **leaves)
    posed = blend_pose_color(neutral, differences, scene.binding, drive, sh_degree, backend)
    torch.autograd.backward(list(vars(posed).values()), upstream(posed))
    gradients = {"neutral": neutral.grad, **{name: leaf.grad for name, leaf in leaves.items()}}
    gradients["values"] = values.grad if backend == "torch" else pair_gradient_torch(differences)
    out = {name: t.detach() for name, t in vars(posed).items()}
    # A gradient that autograd leaves out is zero (the camera at degree 0).
    zeros = {"neutral": neutral, "values": values, **leaves}
    return {**out, **{f"v_{k}": torch.zeros_like(zeros[k]) if g is None else g for k, g in gradients.items()}}


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """Largest deviation over the largest wanted magnitude."""
    if wanted.numel() == 0:
        return 0.0
    difference = (got.double().cpu() - wanted.double().cpu()).abs().max().item()
    return difference / max(wanted.abs().max().item(), 1e-30)
