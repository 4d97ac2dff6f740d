"""The fused `blend_pose_color`: arguments of the native functions and their autograd Function."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _native, backends
from .tables import GEOMETRY, WIDTH, Binding, Differences, Drive, Factors, Posed

_SIZES = "frames gaussians pairs expressions triangles bone_count vertices sh_degree threads pieces"
_POINTERS = (
    "neutral values offsets expression mask triangle anchor barycentric weights beta triangle_maps bones "
    "camera_centers faces pre_offsets post_offsets "
    "means quats scales opacities colors raw_quats directions color_jacobian rest "
    "v_means v_quats v_scales v_opacities v_colors "
    "v_neutral v_geometry v_rgb v_skin v_posed v_view v_pairs "
    "half_values half_scales by_triangle piece_begin"
)


class BlendArgs(ctypes.Structure):
    """Mirror of `BlendArgs` in include/blend.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES.split()),
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
    ]


SHARED = ("beta", "triangle_maps", "bones", "camera_centers", "pre_offsets", "post_offsets")


class SharedGradients(ctypes.Structure):
    """Mirror of `SharedGradients` in include/blend.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in SHARED]


_native.mirror("blendshape_ops", BlendArgs, SharedGradients)


@dataclass(frozen=True)
class _Call:
    """What the Function needs beside the tensors that may require gradients."""

    differences: Differences
    binding: Binding
    faces: Tensor
    frames: int
    expressions: int
    sh_degree: int
    backend: str
    keep: bool  # whether a backward pass can follow


def blend_pose_color_fused(
    neutral: Tensor, differences: Differences, binding: Binding, drive: Drive, sh_degree: int, backend: str
) -> Posed:
    """`blend_pose_color` on checked arguments by the "cpp" or "cuda" library."""
    shared = [getattr(drive, name) for name in SHARED]
    # Nothing is read from this tensor: it makes the backward pass run when the differences alone are trained.
    trigger = torch.empty(0, device=neutral.device, requires_grad=differences.trainable)
    inputs = (neutral, trigger, *shared)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    call = _Call(differences, binding, drive.faces, drive.beta.shape[0], drive.beta.shape[1], sh_degree, backend, keep)
    return Posed(*_BlendPoseColor.apply(call, *inputs))


class _BlendPoseColor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, neutral: Tensor, trigger: Tensor, *shared: Tensor | None) -> tuple[Tensor, ...]:
        shared = tuple(None if t is None else t.contiguous() for t in shared)
        sizes = (call.frames, neutral.shape[0])
        out = {name: neutral.new_empty(*sizes, *shape) for name, shape in RESULTS.items()}
        kept = {name: neutral.new_empty(*sizes, *shape) for name, shape in _KEPT.items()} if call.keep else {}
        if not ctx.needs_input_grad[2 + 1 + SHARED.index("bones")]:
            kept.pop("rest", None)
        _run("blend_forward", call, shared, neutral.contiguous(), {**out, **kept})
        ctx.call, ctx.kept_names = call, tuple(kept)
        ctx.save_for_backward(*shared, *out.values(), *kept.values())
        return tuple(out.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *v_results: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        saved = ctx.saved_tensors
        shared = saved[: len(SHARED)]
        tensors = dict(zip((*RESULTS, *ctx.kept_names), saved[len(SHARED) :], strict=True))
        tensors |= {f"v_{name}": v.contiguous() for name, v in zip(RESULTS, v_results, strict=True)}
        sizes = tensors["means"].shape[:2]
        wanted = dict(zip(SHARED, ctx.needs_input_grad[3:], strict=True))
        tensors |= _gradient_tables(call, tensors["means"], sizes, wanted)
        shared_gradients = _run_backward(call, shared, tensors, wanted)
        if call.differences.trainable:
            factors = (tensors["v_geometry"], tensors["v_rgb"], tensors["directions"], shared[0])
            call.differences.factors.append(Factors(*factors, call.sh_degree))
        return (None, tensors["v_neutral"], None, *shared_gradients)


RESULTS: dict[str, tuple[int, ...]] = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "colors": (3,)}
_KEPT: dict[str, tuple[int, ...]] = {"raw_quats": (4,), "directions": (3,), "color_jacobian": (9,), "rest": (3,)}


def _gradient_tables(call: _Call, like: Tensor, sizes: torch.Size, wanted: dict[str, bool]) -> dict[str, Tensor]:
    """Empty outputs of the backward pass; the optional ones only where an input asks for what is made of them."""
    tables = {
        "v_neutral": like.new_empty(sizes[1], WIDTH),
        "v_geometry": like.new_empty(*sizes, GEOMETRY.stop),
        "v_rgb": like.new_empty(*sizes, 3),
    }
    if wanted["bones"]:
        tables["v_skin"] = like.new_empty(*sizes, 12)
    if wanted["post_offsets"]:
        tables["v_posed"] = like.new_empty(*sizes, 3)
    if wanted["camera_centers"]:
        tables["v_view"] = like.new_empty(*sizes, 3)
    if wanted["beta"] and call.backend == "cpp":
        tables["v_pairs"] = like.new_empty(sizes[0], call.differences.values.shape[0])
    return tables


def _run(
    name: str,
    call: _Call,
    shared: tuple[Tensor | None, ...],
    neutral: Tensor,
    tensors: dict[str, Tensor],
    *more: Any,
) -> None:
    differences, binding = call.differences, call.binding
    constants = {
        "values": differences.values.detach().contiguous(),
        "offsets": differences.offsets.contiguous(),
        "expression": differences.expression.contiguous(),
        "mask": differences.mask.contiguous(),
        "triangle": binding.triangle.contiguous(),
        "anchor": binding.anchor.contiguous(),
        "barycentric": binding.barycentric.contiguous(),
        "weights": binding.weights.contiguous(),
        "faces": call.faces.contiguous(),
        **dict(zip(SHARED, shared, strict=True)),
        "neutral": neutral,
    }
    vertices = next((t.shape[1] for t in shared[4:] if t is not None), 0)
    args = BlendArgs(
        frames=call.frames,
        gaussians=differences.num_gaussians,
        pairs=differences.values.shape[0],
        expressions=call.expressions,
        triangles=call.faces.shape[0],
        bone_count=binding.weights.shape[1],
        vertices=vertices,
        sh_degree=call.sh_degree,
        threads=backends.threads(),
        pieces=len(tensors["piece_begin"]) - 1 if "piece_begin" in tensors else 0,
        **{key: backends.address(tensor) for key, tensor in {**constants, **tensors}.items()},
    )
    backends.call(call.backend, name, neutral, ctypes.byref(args), *more)


def _run_backward(
    call: _Call, shared: tuple[Tensor | None, ...], tensors: dict[str, Tensor], wanted: dict[str, bool]
) -> list[Tensor | None]:
    like = tensors["v_neutral"]  # the values of the neutral table are not needed backwards
    gradients = {
        name: None if tensor is None or not wanted[name] else torch.zeros_like(tensor)
        for name, tensor in zip(SHARED, shared, strict=True)
    }
    surface = any(gradients[name] is not None for name in ("triangle_maps", "pre_offsets", "post_offsets"))
    if surface and call.backend != "cpp":
        tensors["by_triangle"], tensors["piece_begin"] = call.binding.triangle_pieces
    pointers = SharedGradients(**{name: backends.address(tensor) for name, tensor in gradients.items()})
    _run("blend_backward", call, shared, like, tensors, ctypes.byref(pointers))
    return list(gradients.values())
