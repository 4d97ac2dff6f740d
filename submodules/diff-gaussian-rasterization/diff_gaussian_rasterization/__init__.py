"""Differentiable rasterization of 3D Gaussians: CUDA, multithreaded C++ and a pure-torch definition.

`rasterize` is the interface; `GaussianRasterizer` offers the familiar one of 3D Gaussian splatting code on top of it.
"""

from ._library import DensifyStats, RasterConstants, constants
from ._passes import list_usage
from .familiar import GaussianRasterizationSettings, GaussianRasterizer
from .rasterize import RasterizeOutput, rasterize

__all__ = [
    "DensifyStats",
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "RasterConstants",
    "RasterizeOutput",
    "constants",
    "list_usage",
    "rasterize",
]
