"""Distance of two pictures' features at every pixel, as LPIPS measures it."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import backends
from .tables import require

EPS, EPS_SQUARED = 1e-10, 1e-20  # EPS and EPS_SQUARED in src/feature_distance_cuda.cu


def feature_distance(a: Tensor, b: Tensor, weights: Tensor, backend: str = "auto") -> Tensor:
    """sum_c w_c (a_c / |a| - b_c / |b|)^2 at every pixel: [B,h,w], differentiable in `a` and `b`.

    `a`, `b`: features [B,C,h,w] of one dtype, float32 or bfloat16 (also float64 for "torch"); `weights` [C], float32
    (float64 with such features), constant. The result has the dtype of `weights`. Zhang et al., "The Unreasonable
    Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, equation 1. To each length 1e-10 is added, as
    published, and its square inside the root, whose slope at zero features would be infinite.

    `backend`: "torch" is the definition; "cuda" computes in float32, forward and backward one kernel each; "auto" is
    "cuda" for tensors there. Raises ValueError or TypeError for shapes, dtypes or a backend that do not fit.
    """
    require(a, "a", (None, None, None, None))
    require(b, "b", tuple(a.shape), a.dtype)
    require(weights, "weights", (a.shape[1],))
    for name, tensor in (("b", b), ("weights", weights)):
        if tensor.device != a.device:
            raise ValueError(f"{name}: wanted device {a.device} (that of a), got {tensor.device}")
    if backend == "auto" and not a.is_cuda:
        backend = "torch"
    chosen = backends.resolve(backend, weights)
    if chosen == "cpp":
        raise ValueError("backend: feature_distance has no cpp backend, wanted torch or cuda")
    if chosen == "torch":
        return feature_distance_torch(a, b, weights)
    if a.dtype not in (torch.float32, torch.bfloat16):
        raise TypeError(f"a: wanted float32 or bfloat16, got {a.dtype}")
    return _FeatureDistance.apply(a, b, weights)


def feature_distance_torch(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """The definition of `feature_distance`."""
    return ((_unit(a.to(weights.dtype)) - _unit(b.to(weights.dtype))).square() * weights.view(-1, 1, 1)).sum(dim=1)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).add(EPS_SQUARED).sqrt() + EPS)


class _FeatureDistance(torch.autograd.Function):
    """apply(a, b, weights) -> map [B,h,w]"""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
        a, b = (features.contiguous(memory_format=torch.channels_last) for features in (a, b))
        weights = weights.contiguous()
        out = weights.new_empty(a.shape[0], *a.shape[2:])
        _call("feature_distance", a, (a, b, weights, out))
        ctx.save_for_backward(a, b, weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_map: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        a, b, weights = ctx.saved_tensors
        v_map = v_map.contiguous()

        def gradient(of: Tensor, other: Tensor) -> Tensor:  # a and b may change places
            out = torch.empty_like(of)
            _call("feature_distance_gradient", of, (of, other, weights, v_map, out))
            return out

        needs_a, needs_b, _ = ctx.needs_input_grad
        return gradient(a, b) if needs_a else None, gradient(b, a) if needs_b else None, None


def _call(name: str, features: Tensor, tensors: tuple[Tensor, ...]) -> None:
    batch, channels, height, width = features.shape
    sizes = (batch * height * width, channels, features.dtype == torch.bfloat16)
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    backends.call("cuda", name, tensors[2], *pointers, *(ctypes.c_int64(size) for size in sizes))
