"""Compile every CUDA source with nvcc alone, for machines without a GPU: `make cuda-compile`.

The sources include no torch header, so nvcc needs nothing else. Objects go to a temporary folder; nothing is linked.
Without nvcc it says so and succeeds: a machine without the toolkit can still run the other checks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = "sm_90"


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME, else of PATH, else of the toolkit's usual folder."""
    home = os.environ.get("CUDA_HOME")
    places = [Path(home) / "bin" / "nvcc"] if home else []
    on_path = shutil.which("nvcc")
    places += [Path(on_path)] if on_path else []
    places.append(Path("/usr/local/cuda/bin/nvcc"))
    return next((str(place) for place in places if place.is_file()), None)


def cuda_sources() -> list[Path]:
    """All .cu files of the submodules, build folders left out."""
    sources = (ROOT / "submodules").rglob("*.cu")
    return sorted(s for s in sources if "build" not in s.relative_to(ROOT).parts)


def include_folders(source: Path) -> list[Path]:
    """Folders with headers: of the source's own package and of the shared submodules/native."""
    package = source.relative_to(ROOT / "submodules").parts[0]
    found: set[Path] = set()
    for name in (package, "native"):
        folder = ROOT / "submodules" / name
        found |= {header.parent for header in folder.rglob("*.h*")} | {header.parent for header in folder.rglob("*.cuh")}
    return sorted(found)


def compile_one(nvcc: str, source: Path, target: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Run nvcc -c on one source; the result holds its messages."""
    command = [nvcc, "-c", "-std=c++17", "-O3", f"-arch={ARCHITECTURE}", "-Xcompiler", "-fPIC",
               *(f"-I{folder}" for folder in include_folders(source)), str(source), "-o", str(target)]
    return source, subprocess.run(command, capture_output=True, text=True)


def main() -> int:
    """Compile all; 0 when every source compiled or there is no nvcc."""
    sources = cuda_sources()
    nvcc = find_nvcc()
    if nvcc is None:
        print(f"nvcc not found: {len(sources)} CUDA sources were NOT compiled")
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_one, nvcc, s, Path(folder) / f"{i}.o") for i, s in enumerate(sources)]
        for job in jobs:
            source, result = job.result()
            failed += result.returncode != 0
            print(f"{'ok' if result.returncode == 0 else 'FAILED'}  {source.relative_to(ROOT)} ({ARCHITECTURE})")
            if result.returncode != 0:
                print(result.stderr, file=sys.stderr)
    print(f"{len(sources) - failed} of {len(sources)} CUDA sources compiled with {nvcc}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
