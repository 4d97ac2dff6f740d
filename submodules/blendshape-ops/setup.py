"""Builds the native libraries; submodules/native/build_native.py says which switches there are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "native"))

from build_native import setup_package

setup_package(
    "blendshape_ops",
    cpu_sources=["src/blend_cpu.cpp", "src/adam_cpu.cpp", "src/image_loss_cpu.cpp", "src/play_cpu.cpp"],
    cuda_sources=["src/blend_cuda.cu", "src/adam_cuda.cu", "src/image_loss_cuda.cu", "src/play_cuda.cu",
                  "src/feature_distance_cuda.cu"],
)
