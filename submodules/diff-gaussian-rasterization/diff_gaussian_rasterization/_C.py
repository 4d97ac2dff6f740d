# ruff: noqa: N999  (the familiar name)
"""What code that reaches for the extension module of other rasterizers finds here.

Only `mark_visible` has a meaning of its own. The raw passes of other rasterizers exchange buffers of theirs, so they
are not offered: their names raise an error that says what to call instead.
"""

from __future__ import annotations

from torch import Tensor

from .familiar import mark_visible as _mark_visible

__all__ = ["mark_visible"]


def mark_visible(positions: Tensor, viewmatrix: Tensor, projmatrix: Tensor) -> Tensor:
    """[N] bool: which of `positions` [N,3] lie in front of the near plane; `projmatrix` is not looked at."""
    return _mark_visible(positions, viewmatrix)


def __getattr__(name: str) -> object:
    raise AttributeError(
        f"diff_gaussian_rasterization._C has no {name!r}: this rasterizer has no raw passes; call GaussianRasterizer "
        "or rasterize_gaussians of diff_gaussian_rasterization (docs/rasterizer.md)"
    )
