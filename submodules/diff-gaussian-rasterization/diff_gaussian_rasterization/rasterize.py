"""`rasterize`: the differentiable picture of a batch of Gaussian sets, and the checks of its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._library import DensifyStats, Scene, empty_gradients
from ._passes import CpuPass, CudaPass
from .definition import rasterize_torch

BACKENDS = ("auto", "torch", "cpp", "cuda")
MAX_SIZE = 16384  # pixels a side; keeps pixel and tile indices of a frame within 32 bits


class RasterizeOutput(NamedTuple):
    """What `rasterize` returns."""

    image: Tensor  # [B,3,H,W]
    alpha: Tensor  # [B,H,W]
    radii: Tensor  # [B,N] int32, pixels; 0: touches no pixel


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    R: Tensor,
    t: Tensor,
    K: Tensor,
    width: int,
    height: int,
    background: Tensor | None = None,
    stats: DensifyStats | None = None,
    backend: str = "auto",
    means2d: Tensor | None = None,
) -> RasterizeOutput:
    """Draw B frames of N Gaussians each; differentiable in every floating-point argument.

    means [B,N,3] world, metres; quats [B,N,4] (w,x,y,z), used as given, so normalise them first; scales [B,N,3]
    standard deviations, metres; opacities [B,N] in [0,1]; colors [B,N,3]; R [B,3,3] and t [B,3] world to camera (x
    right, y down, z forward); K [B,3,3] pixels, third row (0,0,1), K[0,0] and K[1,1] positive; background None (black),
    [3], [B,3] or [B,3,H,W]. All of one dtype (float32, or float64 except with backend "cuda") on one device. Pixel
    (column i, row j) samples the projection at K's coordinates (i + 0.5, j + 0.5).

    image = sum_i T_i a_i c_i + T_final * background, front to back by depth; alpha = 1 - T_final. The constants are in
    `include/constants.h`; the definition is `definition.py`. Gradients are the true ones of that function: 0 where
    alpha is capped at 0.99, and following the limit where the Jacobian's direction is clamped. The cuts alpha < 1/255
    and T < 1e-4 are discontinuities, whose gradient is taken as 0. A Gaussian that is non-finite or behind the near
    plane is skipped and gets zero gradient.

    `stats` is updated in place by the backward pass (see DensifyStats). `means2d` [B,N,2], any values, receives as its
    gradient the screen-space gradient behind those statistics, before the norm.

    backend "auto" takes "cuda" for CUDA tensors and "cpp" for CPU tensors. "cpp" is deterministic: results do not
    depend on the number of threads (torch.get_num_threads()). "torch" is the slow definition; it takes no `stats`.

    Raises TypeError or ValueError naming the argument, what was wanted and what arrived; NativeLibraryError if the
    backend is not built.
    """
    inputs = (means, quats, scales, opacities, colors, R, t, K)
    _check_tensors(inputs, background, means2d)
    _check_size(width, height, background, means)
    backend = _choose_backend(backend, means)
    _check_stats(stats, means, backend)
    if backend == "torch":
        return RasterizeOutput(*rasterize_torch(Scene(*inputs, background, width, height), means2d))
    differentiable = (*inputs, background, means2d)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in differentiable):
        return RasterizeOutput(*_Rasterize.apply(*differentiable, width, height, stats))
    return _draw(_scene((*inputs, background), width, height))[0]


class _Rasterize(torch.autograd.Function):
    """The native implementations as one differentiable operation."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        *tensors, _means2d, width, height, ctx.stats = arguments
        scene = _scene(tensors, width, height)
        output, ctx.native_pass = _draw(scene)
        ctx.save_for_backward(*scene[:9], output.image, output.radii)
        ctx.size = (width, height)
        ctx.mark_non_differentiable(output.radii)
        ctx.set_materialize_grads(False)
        return output.image, output.alpha, output.radii

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_image: Tensor | None, v_alpha: Tensor | None, _v_radii: None) -> tuple[Tensor | None, ...]:
        *tensors, image, radii = ctx.saved_tensors
        scene = Scene._make((*tensors, *ctx.size))
        needed = ctx.needs_input_grad
        want_means2d = needed[9] or (ctx.stats is not None and ctx.native_pass.sums_means2d)
        out = empty_gradients(scene, any(needed[5:8]), needed[8], want_means2d)
        upstream = [None if v is None else v.contiguous() for v in (v_image, v_alpha)]
        ctx.native_pass.backward(scene, (*upstream, image, radii), out, ctx.stats)
        return (*(v if wanted else None for v, wanted in zip(out, needed, strict=False)), None, None, None)


def _scene(tensors: Sequence[Tensor | None], width: int, height: int) -> Scene:
    """`tensors` are the first fields of Scene, contiguous or not."""
    contiguous = (None if tensor is None else tensor.contiguous() for tensor in tensors)
    return Scene._make((*contiguous, width, height))


def _draw(scene: Scene) -> tuple[RasterizeOutput, CpuPass | CudaPass]:
    """The picture by the native library of the scene's device, and the pass that drew it."""
    means = scene.means
    batch, count = means.shape[:2]
    image = means.new_empty(batch, 3, scene.height, scene.width)
    alpha = means.new_empty(batch, scene.height, scene.width)
    radii = means.new_empty(batch, count, dtype=torch.int32)
    native_pass = (CudaPass if means.is_cuda else CpuPass)(scene, image, alpha, radii)
    return RasterizeOutput(image, alpha, radii), native_pass


_NAMES = ("means", "quats", "scales", "opacities", "colors", "R", "t", "K", "means2d")


@lru_cache(maxsize=64)
def _shapes(B: int, N: int) -> tuple[tuple[int, ...], ...]:
    """What the tensors of `_NAMES` should be."""
    return (B, N, 3), (B, N, 4), (B, N, 3), (B, N), (B, N, 3), (B, 3, 3), (B, 3), (B, 3, 3), (B, N, 2)


def _check_tensors(inputs: tuple[Tensor, ...], background: Tensor | None, means2d: Tensor | None) -> None:
    means = inputs[0]
    _check_kind("means", means, means)
    if means.ndim != 3 or means.shape[0] == 0:
        raise ValueError(f"means: wanted shape [B,N,3] with B at least 1, got {list(means.shape)}")
    tensors: tuple[Any, ...] = (*inputs, means2d)
    dtype, device = means.dtype, means.device
    for name, tensor, wanted in zip(_NAMES, tensors, _shapes(*means.shape[:2]), strict=True):
        # Before every single picture: the message is looked for only where there is something to tell.
        if isinstance(tensor, Tensor) and tensor.shape == wanted and tensor.dtype == dtype and tensor.device == device:
            continue
        if tensor is not None or name != "means2d":
            _check_kind(name, tensor, means)
            raise ValueError(f"{name}: wanted shape {list(wanted)}, got {list(tensor.shape)}")
    if background is not None:
        _check_kind("background", background, means)


def _check_kind(name: str, tensor: Any, means: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: wanted a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: wanted float32 or float64, got {tensor.dtype}")
    if tensor.dtype != means.dtype:
        raise TypeError(f"{name}: wanted the dtype of means, {means.dtype}, got {tensor.dtype}")
    if tensor.device != means.device:
        raise ValueError(f"{name}: wanted the device of means, {means.device}, got {tensor.device}")


def _check_size(width: int, height: int, background: Tensor | None, means: Tensor) -> None:
    for name, size in (("width", width), ("height", height)):
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{name}: wanted an int, got {type(size).__name__}")
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"{name}: wanted 1 to {MAX_SIZE} pixels, got {size}")
    if background is None:
        return
    batch = means.shape[0]
    wanted = ([3], [batch, 3], [batch, 3, height, width])
    if list(background.shape) not in wanted:
        raise ValueError(
            f"background: wanted shape {wanted[0]}, {wanted[1]} or {wanted[2]}, got {list(background.shape)}"
        )


def _check_stats(stats: DensifyStats | None, means: Tensor, backend: str) -> None:
    if stats is None:
        return
    if backend == "torch":
        raise ValueError('stats: wanted None with backend "torch", which has no backward pass of its own')
    wanted = (torch.float32, [means.shape[1]], means.device, True)
    for name, tensor in vars(stats).items():
        got = (tensor.dtype, list(tensor.shape), tensor.device, tensor.is_contiguous())
        if got != wanted:
            raise ValueError(f"stats.{name}: wanted (dtype, shape, device, contiguous) {wanted}, got {got}")


def _choose_backend(backend: str, means: Tensor) -> str:
    if backend not in BACKENDS:
        raise ValueError(f"backend: wanted one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "auto":
        backend = "cuda" if means.is_cuda else "cpp"
    device = {"cpp": "cpu", "cuda": "cuda"}.get(backend, means.device.type)
    if means.device.type != device:
        raise ValueError(f"backend {backend!r}: wanted tensors on {device}, got {means.device}")
    if backend == "cuda" and means.dtype != torch.float32:
        raise TypeError(f'backend "cuda": wanted float32 (float64 needs backend "torch"), got {means.dtype}')
    return backend
