"""CUDA sources compiled as C++ for submodules/native/emulation, which runs kernels thread by thread on the CPU."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from pathlib import Path

SUBMODULES = Path(__file__).resolve().parents[1] / "submodules"


def compile_emulated(folder: Path, package: str, sources: list[str | Path], optimise: str = "-O1") -> ctypes.CDLL:
    """The library made of `sources` (paths within the submodule `package`, or absolute ones), built in `folder`."""
    home = SUBMODULES / package
    includes = (SUBMODULES / "native/emulation", home / "include", home / "src", SUBMODULES / "native/include")
    command = [*shlex.split(os.environ.get("CXX", "g++")), "-std=c++17", optimise, "-fPIC", "-shared", "-Wno-psabi"]
    command += [argument for path in includes for argument in ("-I", str(path))]
    command += ["-x", "c++", *(str(home / source) for source in sources), "-o", str(folder / "emulated.so")]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "emulated.so"))
