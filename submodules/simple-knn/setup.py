"""Builds the CUDA library where wanted; submodules/native/build_native.py says which switches there are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "native"))

from build_native import setup_package

setup_package("simple_knn", cpu_sources=[], cuda_sources=["src/knn_cuda.cu"])
