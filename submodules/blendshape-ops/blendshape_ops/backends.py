"""Which implementation runs, and how its library is called."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from . import _native

BACKENDS = ("auto", "torch", "cpp", "cuda")
_PREFIX = "blendshape_ops"
_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


def resolve(backend: str, tensor: Tensor) -> str:
    """ "torch", "cpp" or "cuda" for `backend` and the device and dtype of `tensor`; ValueError if they do not fit."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: wanted one of {', '.join(BACKENDS)}, got {backend!r}")
    fused = {"cpu": "cpp", "cuda": "cuda"}.get(tensor.device.type)
    if backend == "auto":
        # There is no float64 build of the CUDA kernels: they are proved in float64 by the C++ build of their headers.
        return "torch" if fused is None or (fused == "cuda" and tensor.dtype == torch.float64) else fused
    if backend not in ("torch", fused):
        raise ValueError(f"backend: {backend!r} does not work on tensors on {tensor.device}")
    if backend == "cuda" and tensor.dtype != torch.float32:
        raise TypeError(f"backend: 'cuda' wants float32, got {tensor.dtype}")
    return backend


def call(backend: str, name: str, tensor: Tensor, *arguments: Any) -> None:
    """Run `blendshape_ops_<name>_<f32|f64>` of the backend's library, on the current stream of `tensor`'s device."""
    kind = {"cpp": "cpu", "cuda": "cuda"}[backend]
    library = _native.load(kind)
    function = getattr(library, f"{_PREFIX}_{name}_{_SUFFIX[tensor.dtype]}")
    if kind == "cpu":
        _native.check(library, _PREFIX, function(*arguments))
        return
    with torch.cuda.device(tensor.device):
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        _native.check(library, _PREFIX, function(*arguments, stream))


def threads() -> int:
    """Threads of the C++ loops: torch's own setting."""
    return torch.get_num_threads()


def address(tensor: Tensor | None) -> int | None:
    """Where a contiguous tensor begins, for a pointer field; None is the null pointer."""
    return None if tensor is None else tensor.data_ptr()
