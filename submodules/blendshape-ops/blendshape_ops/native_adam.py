"""The fused Adam updates: arguments of the native functions."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from . import _native, backends
from .tables import Differences, Factors

_SCALARS = ("one_minus_beta1", "beta2", "one_minus_beta2", "eps")
_FACTOR_SIZES = ("frames", "gaussians", "expressions", "sh_degree")
_FACTOR_POINTERS = ("offsets", "expression", "mask", "beta", "v_geometry", "v_rgb", "directions")


class FactorArgs(ctypes.Structure):
    """Mirror of `FactorArgs` in include/adam.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _FACTOR_SIZES),
        *((name, ctypes.c_void_p) for name in _FACTOR_POINTERS),
    ]


def _table_type(scalar: Any, name: str) -> type[ctypes.Structure]:
    scalars = type("AdamScalars", (ctypes.Structure,), {"_fields_": [(each, scalar) for each in _SCALARS]})
    fields = [
        ("scalars", scalars),
        *((each, ctypes.c_void_p) for each in ("rates", "parameter", "exp_avg", "exp_avg_sq")),
    ]
    return type(name, (ctypes.Structure,), {"_fields_": fields, "__doc__": "Mirror of include/adam.h."})


_TABLE_TYPES = {
    torch.float32: _table_type(ctypes.c_float, "AdamTable<float>"),
    torch.float64: _table_type(ctypes.c_double, "AdamTable<double>"),
}
_native.mirror("blendshape_ops", FactorArgs, *_TABLE_TYPES.values())


def table_args(scalars: dict[str, float], schedule: Tensor, table: Tensor, moments: tuple[Tensor, Tensor]) -> Any:
    """The AdamTable of `table` [rows, 60]; the caller keeps `schedule` [61] alive and in the table's dtype."""
    pointers = (backends.address(tensor) for tensor in (schedule, table, *moments))
    return _TABLE_TYPES[table.dtype](tuple(scalars[name] for name in _SCALARS), *pointers)


def step_table(backend: str, args: Any, table: Tensor, gradient: Tensor, sh_degree: int) -> None:
    """Update a table [rows, 60] from its gradient of the same shape."""
    gradient = gradient.contiguous()
    count, degree = ctypes.c_int64(table.shape[0]), ctypes.c_int64(sh_degree)
    pointer = ctypes.c_void_p(gradient.data_ptr())
    backends.call(backend, "adam_table", table, count, degree, ctypes.byref(args), pointer, backends.threads())


def step_differences(backend: str, args: Any, differences: Differences, sh_degree: int) -> None:
    """Update the values of `differences` from the factors that they carry."""
    merged = merge_factors(differences.factors)
    frames, gaussians, _ = merged.v_geometry.shape
    tensors = {
        "offsets": differences.offsets.contiguous(),
        "expression": differences.expression.contiguous(),
        "mask": differences.mask.contiguous(),
        **{name: getattr(merged, name).contiguous() for name in ("beta", "v_geometry", "v_rgb", "directions")},
    }
    factors = FactorArgs(
        frames=frames,
        gaussians=gaussians,
        expressions=merged.beta.shape[1],
        sh_degree=merged.sh_degree,
        **{name: backends.address(tensor) for name, tensor in tensors.items()},
    )
    degree = ctypes.c_int64(sh_degree)
    arguments = (degree, ctypes.byref(args), ctypes.byref(factors), backends.threads())
    backends.call(backend, "adam_differences", differences.values, *arguments)


def merge_factors(factors: list[Factors]) -> Factors:
    """The factors of several backward passes as those of one larger batch."""
    if len(factors) == 1:
        return factors[0]
    degrees = {factor.sh_degree for factor in factors}
    if len(degrees) > 1:
        raise ValueError(f"factors: wanted one SH degree between two steps, got {sorted(degrees)}")
    return Factors(
        torch.cat([factor.v_geometry for factor in factors]),
        torch.cat([factor.v_rgb for factor in factors]),
        torch.cat([factor.directions for factor in factors]),
        torch.cat([factor.beta for factor in factors]),
        degrees.pop(),
    )


def advance_cuda(steps: Tensor, rates: Tensor, betas: tuple[float, float], like: Tensor) -> Tensor:
    """Add 1 to `steps` (int64) and make schedules [2, 61] of `rates` [2, 60] (float64), all on the device."""
    schedules = like.new_empty(2, rates.shape[1] + 1)
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (steps, rates.contiguous(), schedules))
    backends.call("cuda", "adam_advance", like, *pointers, *(ctypes.c_double(beta) for beta in betas))
    return schedules
