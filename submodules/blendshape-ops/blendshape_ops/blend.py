"""Blend, pose and colour the Gaussians of a batch of frames in one operation."""

from __future__ import annotations

import torch
from torch import Tensor

from . import backends
from .native_blend import blend_pose_color_fused
from .reference import blend_pose_color_torch
from .tables import WIDTH, Binding, Differences, Drive, Posed, active_columns, index_range, require


def blend_pose_color(
    neutral: Tensor,
    differences: Differences,
    binding: Binding,
    drive: Drive,
    sh_degree: int,
    backend: str = "auto",
) -> Posed:
    """From neutral parameters, differences and what drives them to posed, coloured Gaussians of B frames.

    `neutral` [N, 60] is the packed table (see `tables`); all floating tensors share one dtype (float32 or float64) and
    one device. For Gaussian n on triangle f, with m = mask beta over its pairs:

    1. x = means + (A x0 + c) + sum m d_means, [A, c, dq] = triangle_maps[b, f] (0 without a triangle)
    2. q = normalise(quats + dq + sum m d_quats); h = sh + sum m d_sh
    3. x += barycentric mean of pre_offsets
    4. T = sum_j weights_j bones_j; y = T x; y += barycentric mean of post_offsets
    5. R = polar3(T[:, :3]); quaternion = quat(R) (x) q
    6. scale = exp(log_scales + sum m d), opacity = sigmoid(logit + sum m d)
    7. rgb = max(0, 0.5 + sum_j h_j Y_j(R^T (y - camera) / |y - camera|)), j below (sh_degree + 1)^2

    Looking colours up along R^T d equals rotating the spherical harmonics by R. Differentiable in `neutral`, and in
    beta (through the differences only), triangle_maps, bones, camera_centers, pre_offsets and post_offsets where they
    ask for it. The native backends never form the gradient of the differences: every backward pass appends its
    `Factors` to `differences.factors` (while `differences.trainable`), from which `FactoredAdam` updates. The torch
    backend gives `differences.values` an ordinary dense gradient if it requires one.

    `backend`: "torch" is the definition, "cpp" and "cuda" are fused; "auto" takes the fused one of the tensors' device,
    or torch where `differences.values` requires a gradient. Raises ValueError or TypeError for what does not fit.
    """
    active_columns(sh_degree)
    _check(neutral, differences, binding, drive)
    chosen = "torch" if backend == "auto" and differences.values.requires_grad else backends.resolve(backend, neutral)
    if chosen == "torch":
        return blend_pose_color_torch(neutral, differences, binding, drive, sh_degree)
    if differences.values.requires_grad:
        raise ValueError(
            f"values: backend {chosen!r} leaves factors instead of a dense gradient, which values.requires_grad asks "
            "for; use FactoredAdam without it, or backend='torch'"
        )
    return blend_pose_color_fused(neutral, differences, binding, drive, sh_degree, chosen)


def _check(neutral: Tensor, differences: Differences, binding: Binding, drive: Drive) -> None:
    if neutral.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"neutral: wanted float32 or float64, got {neutral.dtype}")
    require(neutral, "neutral", (binding.triangle.shape[0], WIDTH))
    if differences.num_gaussians != neutral.shape[0]:
        raise ValueError(f"differences: wanted {neutral.shape[0]} Gaussians, got {differences.num_gaussians}")
    dtype = neutral.dtype
    require(differences.values, "values", (None, WIDTH), dtype)
    require(binding.anchor, "anchor", (None, 3), dtype)
    check_drive(binding, drive, dtype, differences.num_expressions_used)
    tensors = {**vars(drive), "values": differences.values, "triangle": binding.triangle}
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and tensor.device != neutral.device:
            raise ValueError(f"{name}: wanted device {neutral.device} (that of neutral), got {tensor.device}")


def check_drive(binding: Binding, drive: Drive, dtype: torch.dtype, expressions: int) -> None:
    """Raise unless `drive` fits the binding and at least `expressions` codes."""
    require(drive.beta, "beta", (None, None), dtype)
    require(drive.faces, "faces", (None, 3), torch.int32)
    batch, triangles = drive.beta.shape[0], drive.faces.shape[0]
    require(drive.triangle_maps, "triangle_maps", (batch, triangles, 16), dtype)
    require(drive.bones, "bones", (batch, binding.weights.shape[1], 3, 4), dtype)
    require(drive.camera_centers, "camera_centers", (batch, 3), dtype)
    smallest, largest = index_range(drive.faces)
    if smallest < 0:
        raise ValueError(f"faces: wanted vertices from 0, got {smallest}")
    for name, offsets in (("pre_offsets", drive.pre_offsets), ("post_offsets", drive.post_offsets)):
        if offsets is not None:
            require(offsets, name, (batch, None, 3), dtype)
            if largest >= offsets.shape[1]:
                raise ValueError(f"{name}: wanted at least {largest + 1} vertices, got {offsets.shape[1]}")
    if expressions > drive.beta.shape[1]:
        raise ValueError(f"beta: wanted at least {expressions} expressions, got {drive.beta.shape[1]}")
    if binding.num_triangles_used > drive.faces.shape[0]:
        raise ValueError(f"faces: wanted at least {binding.num_triangles_used} triangles, got {drive.faces.shape[0]}")
