# ruff: noqa: N999  (the familiar name)
"""The module from which 3D Gaussian splatting code imports `distCUDA2`."""

from . import distCUDA2

__all__ = ["distCUDA2"]
