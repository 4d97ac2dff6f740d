"""Builds a submodule's native libraries with plain g++ and nvcc; imported by the setup.py of every submodule.

A package gets `_native_cpu.so` from its C++ sources and, where wanted, `_native_cuda.so` from its CUDA sources. Both
export `extern "C"` functions and include no torch and no Python header, so one build serves every version of either.

Environment:
    NATIVE_ARCH           value of g++'s -march (default: native); x86-64-v3 makes a library that other machines can run
    CXX, CUDA_HOME        compiler and CUDA toolkit to use (default: g++; the nvcc on PATH or in /usr/local/cuda)
    BUILD_CUDA            1: build the CUDA library or fail; 0: never; unset: build it where nvcc and a GPU are found
    TORCH_CUDA_ARCH_LIST  compute capabilities, e.g. "8.6;9.0+PTX" (default: the local GPU's; none: all of 7.5 to 12.0;
                          in both cases with the newest one's PTX, which the driver compiles for GPUs to come)
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path(__file__).resolve().parent
# Every architecture from Turing to Blackwell that torch itself ships for; nvcc drops those it does not know.
ALL_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
# Not -ffast-math: NaN and infinity must survive so that non-finite Gaussians can be recognised.
CPU_FLAGS: tuple[str, ...] = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra")
CPU_FLAGS += ("-fPIC", "-pthread", "-fvisibility=hidden")
CUDA_FLAGS = ("-std=c++17", "-O3", "--cudart", "static", "-lineinfo", "-Xcompiler", "-fPIC,-fvisibility=hidden")


def setup_package(
    package: str, cpu_sources: list[str], cuda_sources: list[str], cpu_flags: tuple[str, ...] = ()
) -> None:
    """Run setuptools for `package` (name, version and dependencies stand in its pyproject.toml).

    Sources are paths relative to the submodule's folder, which is the working directory of every setup.py run;
    headers are found in its `include/` and in `submodules/native/include/`.
    """
    shutil.copyfile(NATIVE / "_native.py", Path(package) / "_native.py")
    shutil.rmtree("build", ignore_errors=True)  # setuptools would pack libraries of an earlier build
    extensions = [NativeExtension(f"{package}._native_cpu", cpu_sources, cpu_flags)] if cpu_sources else []
    if cuda_sources and _cuda_wanted(package):
        extensions.append(NativeExtension(f"{package}._native_cuda", cuda_sources, ()))
    else:
        # One of an earlier build would be called with today's arguments.
        (Path(package) / "_native_cuda.so").unlink(missing_ok=True)
    setup(packages=[package], ext_modules=extensions, cmdclass={"build_ext": BuildNative})


class NativeExtension(Extension):
    """One shared library of a package; `.cu` sources make it a CUDA library."""

    def __init__(self, name: str, sources: list[str], extra_flags: tuple[str, ...]):
        super().__init__(name, sources, extra_compile_args=list(extra_flags))

    @property
    def is_cuda(self) -> bool:
        return any(source.endswith(".cu") for source in self.sources)


class BuildNative(build_ext):
    """Compiles each source to an object, in parallel, and links them without Python's own compiler settings."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"  # no ABI tag: the library does not depend on Python

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        objects = Path(self.build_temp).resolve() / ext.name
        objects.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = nvcc_command() if ext.is_cuda else _cpu_command()
        compiler += ["-I", "include", "-I", str(NATIVE / "include"), *ext.extra_compile_args]
        pairs = [(source, str(objects / f"{Path(source).stem}.o")) for source in ext.sources]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda pair: _run([*compiler, "-c", pair[0], "-o", pair[1]]), pairs))
        finished = target.with_suffix(".so.tmp")
        _run([*compiler, "-shared", *(obj for _, obj in pairs), "-o", str(finished)])
        os.replace(finished, target)  # a process that has the old library open keeps it


def _cpu_command() -> list[str]:
    return [*shlex.split(os.environ.get("CXX", "g++")), *CPU_FLAGS, f"-march={os.environ.get('NATIVE_ARCH', 'native')}"]


def nvcc_command() -> list[str]:
    """nvcc with the flags of every build; architectures from TORCH_CUDA_ARCH_LIST, the local GPU, or all."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("BUILD_CUDA=1, but nvcc was not found: set CUDA_HOME or put nvcc on PATH")
    return [nvcc, *CUDA_FLAGS, "--threads", "0", *_gencode_flags(nvcc)]


def _cuda_wanted(package: str) -> bool:
    """Decide by BUILD_CUDA, nvcc and GPU, and say why."""
    wish = os.environ.get("BUILD_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"BUILD_CUDA must be 0, 1 or unset, got {wish!r}")
    nvcc, gpus = find_nvcc(), _local_capabilities()
    wanted = wish == "1" or (wish == "" and nvcc is not None and bool(gpus))
    if wish:
        reason = f"BUILD_CUDA={wish}"
    else:
        found_gpu = f"GPU of capability {', '.join(gpus)}" if gpus else "no GPU found"
        reason = f"nvcc {'at ' + nvcc if nvcc else 'not found'}, {found_gpu}"
    cuda_too = "and the CUDA library" if wanted else "but not the CUDA library"
    _say(f"{package}: building the C++ library {cuda_too} ({reason})")
    return wanted


def find_nvcc() -> str | None:
    """Path of nvcc: of CUDA_HOME or CUDA_PATH, else on PATH, else in the usual place; None without a toolkit."""
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and (Path(home) / "bin" / "nvcc").is_file():
            return str(Path(home) / "bin" / "nvcc")
    standard = Path("/usr/local/cuda/bin/nvcc")
    return shutil.which("nvcc") or (str(standard) if standard.is_file() else None)


def _local_capabilities() -> list[str]:
    """Compute capabilities of the GPUs of this machine, e.g. ["9.0"]; empty without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False)
    return sorted(set(result.stdout.split())) if result.returncode == 0 else []


def _gencode_flags(nvcc: str) -> list[str]:
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    default = [item for item in ALL_CAPABILITIES if f"compute_{item.replace('.', '')}" in known]
    capabilities = asked or _with_newest_ptx(_local_capabilities() or default)
    flags = []
    for capability in capabilities:
        number = capability.removesuffix("+PTX").replace(".", "")
        codes = f"sm_{number}" + (f",compute_{number}" if capability.endswith("+PTX") else "")
        flags += ["-gencode", f"arch=compute_{number},code=[{codes}]"]
    _say(f"nvcc compiles for {', '.join(capabilities)}")
    return flags


def _with_newest_ptx(capabilities: list[str]) -> list[str]:
    """The same in ascending order, the last one marked +PTX."""
    *older, newest = sorted(capabilities, key=lambda text: tuple(map(int, text.split("."))))
    return [*older, f"{newest}+PTX"]


def _run(command: list[str]) -> None:
    _say(shlex.join(command))
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SystemExit(f"{command[0]} was not found: install it, or set CXX to another compiler") from error
    sys.stderr.write(result.stdout + result.stderr)
    if result.returncode:
        raise SystemExit(f"{command[0]} failed with status {result.returncode}: {result.stderr.strip()[-2000:]}")


def _say(text: str) -> None:
    print(f"[native] {text}", flush=True)
