"""Differentiable rasterization of 3D Gaussians: CUDA, multithreaded C++ and a pure-torch definition."""

from ._library import DensifyStats, RasterConstants, constants
from .rasterize import RasterizeOutput, rasterize

__all__ = ["DensifyStats", "RasterConstants", "RasterizeOutput", "constants", "rasterize"]
