"""Differentiable rasterization of 3D Gaussians: CUDA, multithreaded C++ and a pure-torch definition.

`rasterize` is the interface. `GaussianRasterizer` and the names around it offer the familiar one of 3D Gaussian
splatting code on top of it; docs/rasterizer.md says what they do and where they differ.
"""

from ._library import DensifyStats, RasterConstants, constants
from ._passes import list_usage
from .familiar import GaussianRasterizationSettings, GaussianRasterizer, rasterize_gaussians
from .rasterize import RasterizeOutput, rasterize
from .sparse_adam import SparseGaussianAdam

__all__ = [
    "DensifyStats",
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "RasterConstants",
    "RasterizeOutput",
    "SparseGaussianAdam",
    "constants",
    "list_usage",
    "rasterize",
    "rasterize_gaussians",
]
