"""The fused `image_loss`: arguments of the native functions and their autograd Function."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import backends

_POINTERS = "window image alpha target background v_image v_alpha scratch terms"


class ImageLossArgs(ctypes.Structure):
    """Mirror of `ImageLossArgs` in include/ssim.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "composite", "threads")),
        *((name, ctypes.c_double) for name in ("l1_weight", "dssim_weight", "alpha_weight", "c1", "c2")),
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
    ]


class ImageLoss(torch.autograd.Function):
    """apply(image, alpha, target, background, options, backend) -> (total, terms).

    The gradient is made together with the values, for an upstream gradient of 1, and scaled in the backward pass.
    """

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
            "terms": torch.zeros(3, dtype=torch.float64, device=image.device),
        }
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            tensors["v_image"], tensors["v_alpha"] = torch.empty_like(image), torch.empty_like(alpha)
            tensors["scratch"] = image.new_empty(3, image.numel())
        _run(backend, tensors, options)
        weights = [options["l1_weight"], options["dssim_weight"], options["alpha_weight"]]
        terms = tensors["terms"]
        assert terms is not None
        total = (terms[0] * weights[0] + terms[1] * weights[1] + terms[2] * weights[2]).to(image.dtype)
        ctx.save_for_backward(tensors.get("v_image"), tensors.get("v_alpha"))
        terms = terms.to(image.dtype)
        ctx.mark_non_differentiable(terms)
        return total, terms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_total: Tensor, _v_terms: Tensor) -> tuple[Tensor | None, ...]:
        v_image, v_alpha = ctx.saved_tensors
        return v_image * v_total, v_alpha * v_total, None, None, None, None


def _run(backend: str, tensors: dict[str, Tensor | None], options: dict[str, Any]) -> None:
    image = tensors["image"]
    assert image is not None
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
    backends.call(backend, "image_loss", image, ctypes.byref(args))
