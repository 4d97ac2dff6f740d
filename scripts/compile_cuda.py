"""Compile every CUDA source for one architecture, also on a machine without a GPU: `make cuda-compile`.

Compiler and flags are those of the build of the submodules. Objects go to a temporary folder; nothing is linked.
Without nvcc it says so and succeeds: a machine without the toolkit can still run the other checks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUBMODULES = ROOT / "submodules"
CAPABILITY = "9.0"

sys.path.insert(0, str(SUBMODULES / "native"))

import build_native  # noqa: E402  (found through the path above)


def cuda_sources() -> list[Path]:
    """All .cu files of the submodules, build folders left out."""
    return sorted(s for s in SUBMODULES.rglob("*.cu") if "build" not in s.relative_to(ROOT).parts)


def compile_source(compiler: list[str], source: Path, folder: str) -> bool:
    """Compile one source; prints one line, and the compiler's messages when it fails."""
    package = SUBMODULES / source.relative_to(SUBMODULES).parts[0]
    includes = [f"-I{package / 'include'}", f"-I{SUBMODULES / 'native' / 'include'}"]
    command = [*compiler, *includes, "-c", str(source), "-o", str(Path(folder) / "object.o")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    outcome = "compiled" if result.returncode == 0 else f"FAILED\n{result.stdout}{result.stderr}"
    print(f"{source.relative_to(ROOT)}: {outcome}", flush=True)
    return result.returncode == 0


def main() -> int:
    """Compile all; 0 when every source compiled or there is no nvcc."""
    sources = cuda_sources()
    if build_native.find_nvcc() is None:
        print(f"nvcc not found: {len(sources)} CUDA sources were NOT compiled")
        return 0
    os.environ["TORCH_CUDA_ARCH_LIST"] = CAPABILITY
    compiler = build_native.nvcc_command()
    with tempfile.TemporaryDirectory() as folder:
        compiled = [compile_source(compiler, source, folder) for source in sources]
    print(f"{sum(compiled)} of {len(sources)} CUDA sources compiled for capability {CAPABILITY}")
    return 0 if all(compiled) else 1


if __name__ == "__main__":
    sys.exit(main())
