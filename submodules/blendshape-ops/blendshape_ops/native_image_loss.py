"""The fused `image_loss`: arguments of the native functions and their autograd Function."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _native, backends

CUDA_TILE = 32  # SSIM_CUDA_TILE in include/ssim.h

_POINTERS = "window image alpha target background scratch terms total workspace v_total v_image v_alpha"


class ImageLossArgs(ctypes.Structure):
    """Mirror of `ImageLossArgs` in include/ssim.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "composite", "threads")),
        *((name, ctypes.c_double) for name in ("l1_weight", "dssim_weight", "alpha_weight", "c1", "c2")),
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
    ]


_native.mirror("blendshape_ops", ImageLossArgs, SSIM_CUDA_TILE=CUDA_TILE)


class ImageLoss(torch.autograd.Function):
    """apply(image, alpha, target, background, options, backend) -> (total, terms [3])."""

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        alpha: Tensor,
        target: Tensor,
        background: Tensor | None,
        options: dict[str, Any],
        backend: str,
    ) -> tuple[Tensor, Tensor]:
        tensors: dict[str, Tensor | None] = {
            "image": image.contiguous(),
            "alpha": alpha.contiguous(),
            "target": target.contiguous(),
            "background": None if background is None else background.contiguous(),
        }
        scratch = image.new_empty(3, image.numel()) if ctx.needs_input_grad[0] else None
        terms, total = image.new_empty(3), image.new_empty(())
        workspace = _cuda_workspace(image) if backend == "cuda" else None
        outputs = {"scratch": scratch, "terms": terms, "total": total, "workspace": workspace}
        _run(backend, "image_loss_forward", image, {**tensors, **outputs}, options)
        ctx.options, ctx.backend = options, backend
        ctx.save_for_backward(*tensors.values(), scratch)
        ctx.mark_non_differentiable(terms)
        return total, terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_total: Tensor, _v_terms: Tensor) -> tuple[Tensor | None, ...]:
        image, alpha, target, background, scratch = ctx.saved_tensors
        v_image = torch.empty_like(image) if ctx.needs_input_grad[0] else None
        v_alpha = torch.empty_like(alpha) if ctx.needs_input_grad[1] else None
        tensors = {"image": image, "alpha": alpha, "target": target, "background": background, "scratch": scratch}
        gradients = {"v_total": v_total.contiguous(), "v_image": v_image, "v_alpha": v_alpha}
        _run(ctx.backend, "image_loss_backward", image, {**tensors, **gradients}, ctx.options)
        return v_image, v_alpha, None, None, None, None


def _cuda_workspace(image: Tensor) -> Tensor:
    """A counter that is zero and room for three sums of every block (see the CUDA source)."""
    batch, _, height, width = image.shape
    blocks = 3 * batch * -(-height // CUDA_TILE) * -(-width // CUDA_TILE)
    workspace = torch.empty(1 + 3 * blocks, dtype=torch.float64, device=image.device)
    workspace[0].zero_()
    return workspace


def _run(backend: str, name: str, image: Tensor, tensors: dict[str, Tensor | None], options: dict[str, Any]) -> None:
    batch, _, height, width = image.shape
    args = ImageLossArgs(
        batch=batch,
        height=height,
        width=width,
        threads=backends.threads(),
        **{name: value for name, value in options.items() if name != "window"},
        **{name: backends.address(tensor) for name, tensor in tensors.items()},
        window=backends.address(options["window"]),
    )
    backends.call(backend, name, image, ctypes.byref(args))
