"""Differences in half precision for playing: half the bytes of the largest table, forward only."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _native, backends
from .blend import check_drive
from .native_blend import RESULTS, SHARED, BlendArgs
from .tables import WIDTH, Binding, Differences, Drive, Posed, active_columns, index_range, require, require_offsets

HALF_WIDTH = 64
"""Numbers of a stored row: 60 and padding, so that a row is one cache line of 128 bytes."""

_native.mirror("blendshape_ops", HALF_ROW=HALF_WIDTH)

_LARGEST_EXPONENT = 15  # of a half-precision number, as torch.frexp counts (mantissa below 1)
_SMALLEST_EXPONENT = -100  # columns smaller than 2^-100 are zero for all purposes, and their scale must be a number


@dataclass(frozen=True, eq=False)
class HalfDifferences:
    """`Differences` for drawing: row p, column c stands for mask * value = values[p, c] * scales[c].

    `values` [P, 64] float16; `scales` [64] float32, powers of two that let each column's largest number just fit;
    `offsets` [N + 1] and `expression` [P] int32 as in `Differences`; `num_expressions`: 1 + the largest expression.
    """

    values: Tensor
    scales: Tensor
    offsets: Tensor
    expression: Tensor
    num_expressions: int

    def __post_init__(self) -> None:
        require(self.values, "values", (None, HALF_WIDTH), torch.float16)
        require(self.scales, "scales", (HALF_WIDTH,), torch.float32)
        require(self.offsets, "offsets", (None,), torch.int32)
        require(self.expression, "expression", (len(self.values),), torch.int32)
        require_offsets(self.offsets, "offsets", len(self.values))
        smallest, largest = index_range(self.expression)
        if smallest < 0 or largest >= self.num_expressions:
            raise ValueError(f"expression: wanted 0 to {self.num_expressions - 1}, got {smallest} to {largest}")

    @staticmethod
    def of(differences: Differences) -> HalfDifferences:
        """Round `differences` (relative error 2^-11 of a value, and never more than 2^-40 of its column's largest)."""
        values = differences.values.detach() * differences.mask[:, None]
        largest = values.abs().amax(dim=0) if len(values) else values.new_zeros(WIDTH)
        if not torch.isfinite(largest).all():
            raise ValueError("values: wanted finite numbers, got others")
        exponent = torch.frexp(largest).exponent.clamp_min(_SMALLEST_EXPONENT) - _LARGEST_EXPONENT
        scales = torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent), torch.ones_like(largest))
        rows = values.new_zeros(len(values), HALF_WIDTH, dtype=torch.float16)
        rows[:, :WIDTH] = (values / scales).half()
        padding = scales.new_ones(HALF_WIDTH - WIDTH)
        return HalfDifferences(rows, torch.cat([scales, padding]).float(), differences.offsets,
                               differences.expression, differences.num_expressions_used)  # fmt: skip

    @property
    def num_gaussians(self) -> int:
        return self.offsets.numel() - 1


def blend_pose_color_half(
    neutral: Tensor, differences: HalfDifferences, binding: Binding, drive: Drive, sh_degree: int, backend: str = "auto"
) -> Posed:
    """`blend_pose_color` from half-precision differences; float32, no gradient, backends "cpp" and "cuda".

    Sums are in float32. Raises ValueError or TypeError for what does not fit.
    """
    active_columns(sh_degree)
    require(neutral, "neutral", (binding.triangle.shape[0], WIDTH), torch.float32)
    if differences.num_gaussians != neutral.shape[0]:
        raise ValueError(f"differences: wanted {neutral.shape[0]} Gaussians, got {differences.num_gaussians}")
    require(differences.values, "values", (None, HALF_WIDTH), torch.float16)
    check_drive(binding, drive, neutral.dtype, differences.num_expressions)
    chosen = backends.resolve(backend, neutral)
    if chosen == "torch":
        raise ValueError("backend: half-precision differences have no torch backend, wanted cpp or cuda")
    shared = {name: None if t is None else t.contiguous() for name, t in vars(drive).items() if name in SHARED}
    vertices = next((t.shape[1] for t in (drive.pre_offsets, drive.post_offsets) if t is not None), 0)
    frames, count = drive.beta.shape[0], neutral.shape[0]
    out = {name: neutral.new_empty(frames, count, *shape) for name, shape in RESULTS.items()}
    tensors = {**shared, **out, "neutral": neutral.detach().contiguous(), "faces": drive.faces.contiguous(),
               "offsets": differences.offsets, "expression": differences.expression, **vars(binding),
               "half_values": differences.values, "half_scales": differences.scales}  # fmt: skip
    known = {item[0] for item in BlendArgs._fields_}
    args = BlendArgs(
        frames=frames,
        gaussians=count,
        pairs=differences.values.shape[0],
        expressions=drive.beta.shape[1],
        triangles=drive.faces.shape[0],
        bone_count=binding.weights.shape[1],
        vertices=vertices,
        sh_degree=sh_degree,
        threads=backends.threads(),
        **{name: backends.address(tensor) for name, tensor in tensors.items() if name in known},
    )
    backends.call(chosen, "blend_forward", neutral, ctypes.byref(args))
    return Posed(**out)
