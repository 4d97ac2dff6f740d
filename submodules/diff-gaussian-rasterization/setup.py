"""Builds the rasterizer's native libraries; submodules/native/build_native.py says which switches there are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "native"))

from build_native import setup_package

setup_package(
    "diff_gaussian_rasterization",
    cpu_sources=["src/rasterize_cpu.cpp", "src/cpu_forward.cpp", "src/cpu_backward.cpp"],
    cuda_sources=["src/rasterize_cuda.cu"],
)
