"""The helper that builds the submodules' native libraries, and the loader it places into them."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

NATIVE = Path(__file__).resolve().parents[1] / "submodules" / "native"

SETUP = """
import sys
sys.path.insert(0, {native!r})
from build_native import setup_package
setup_package("tiny", cpu_sources=["tiny.cpp"], cuda_sources=["tiny.cu"])
"""
SOURCE = """
#include "c_abi.h"
#include <stdexcept>
NATIVE_EXPORT const char* tiny_last_error() { return c_abi::last_error().c_str(); }
NATIVE_EXPORT int tiny_half(int value, int* out) {
    return c_abi::guarded([&] { if (value % 2) throw std::runtime_error("odd"); *out = value / 2; });
}
"""
USE = """
import ctypes
from tiny import _native
library, out = _native.load("cpu"), ctypes.c_int()
_native.check(library, "tiny", library.tiny_half(8, ctypes.byref(out)))
assert out.value == 4 and _native.is_built("cpu") and not _native.is_built("cuda")
try:
    _native.check(library, "tiny", library.tiny_half(7, ctypes.byref(out)))
except _native.NativeLibraryError as error:
    assert str(error) == "tiny: odd", error
else:
    raise AssertionError("a failure must raise")
"""


# Lets two threads start, then refuses, as a system does whose limits are reached.
FEW_THREADS = """
#include <cerrno>
#include <cstdio>
#include <dlfcn.h>
#include <pthread.h>
#include "parallel.h"
static int started = 0;
extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* options, void* (*body)(void*), void* argument) {
    if (++started > 2) return EAGAIN;
    using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
    return reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"))(thread, options, body, argument);
}
int main() {
    std::vector<int> visits(1000, 0);
    parallel_for(1000, 1, 8, [&](int64_t i) { visits[i] += 1; });
    started = 2;
    parallel_for_dynamic(1000, 8, [&](int64_t i) { visits[i] += 1; });
    for (int count : visits) if (count != 2) return 1;
    std::puts("all done");
}
"""


@pytest.fixture
def build_native(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The helper, imported anew, with none of its switches set."""
    for name in ("BUILD_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH", "CXX", "NATIVE_ARCH"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("build_native", NATIVE / "build_native.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_tiny(folder: Path, source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the setup.py of a package with one C++ source in place."""
    (folder / "tiny").mkdir(exist_ok=True)
    (folder / "tiny" / "__init__.py").touch()
    (folder / "setup.py").write_text(SETUP.format(native=str(NATIVE)))
    (folder / "tiny.cpp").write_text(source)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = os.environ | {"BUILD_CUDA": "0"} | environment
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_builds_a_library_that_loads_and_reports_errors(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "_native_cuda.so").write_text("left by an earlier build")
    result = build_tiny(tmp_path, SOURCE)
    assert result.returncode == 0, result.stderr
    assert "[native] tiny: building the C++ library but not the CUDA library (BUILD_CUDA=0)" in result.stdout
    subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, check=True)


def test_a_compiler_error_stops_the_build_and_is_shown(tmp_path):
    result = build_tiny(tmp_path, "this is not C++")
    assert result.returncode != 0
    assert "g++ failed with status 1" in result.stderr
    assert "tiny.cpp:1" in result.stderr


def test_a_missing_compiler_is_named(tmp_path):
    result = build_tiny(tmp_path, SOURCE, CXX="no-such-compiler")
    assert result.returncode != 0
    assert "no-such-compiler was not found" in result.stderr


@pytest.mark.parametrize(
    "wish, nvcc, gpus, wanted, words",
    [
        ("", "/cuda/bin/nvcc", ["9.0"], True, "nvcc at /cuda/bin/nvcc, GPU of capability 9.0"),
        ("", "/cuda/bin/nvcc", [], False, "nvcc at /cuda/bin/nvcc, no GPU found"),
        ("", None, ["9.0"], False, "nvcc not found, GPU of capability 9.0"),
        ("1", "/cuda/bin/nvcc", [], True, "BUILD_CUDA=1"),
        ("0", "/cuda/bin/nvcc", ["9.0"], False, "BUILD_CUDA=0"),
    ],
)
def test_says_whether_and_why_cuda_is_built(build_native, monkeypatch, capsys, wish, nvcc, gpus, wanted, words):
    monkeypatch.setenv("BUILD_CUDA", wish)
    monkeypatch.setattr(build_native, "find_nvcc", lambda: nvcc)
    monkeypatch.setattr(build_native, "_local_capabilities", lambda: gpus)
    assert build_native._cuda_wanted("tiny") is wanted
    assert f"({words})" in capsys.readouterr().out


def test_refuses_what_it_cannot_do(build_native, monkeypatch):
    monkeypatch.setattr(build_native, "find_nvcc", lambda: None)
    with pytest.raises(SystemExit, match="BUILD_CUDA=1, but nvcc was not found: set CUDA_HOME"):
        build_native.nvcc_command()
    monkeypatch.setenv("BUILD_CUDA", "yes")
    with pytest.raises(SystemExit, match="BUILD_CUDA must be 0, 1 or unset, got 'yes'"):
        build_native._cuda_wanted("tiny")


@pytest.mark.parametrize(
    "asked, local, wanted",
    [
        ("8.6;9.0+PTX", ["7.5"], ["compute_86,code=[sm_86]", "compute_90,code=[sm_90,compute_90]"]),
        # Not asked for: the newest with its PTX, for GPUs to come.
        ("", ["7.5"], ["compute_75,code=[sm_75,compute_75]"]),
        ("", ["12.0", "8.9"], ["compute_89,code=[sm_89]", "compute_120,code=[sm_120,compute_120]"]),
        # Without a GPU: all that this nvcc knows.
        ("", [], ["compute_75,code=[sm_75]", "compute_90,code=[sm_90,compute_90]"]),
    ],
)
def test_chooses_architectures(build_native, monkeypatch, tmp_path, asked, local, wanted):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho compute_75\necho compute_90\necho compute_90a\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    monkeypatch.setattr(build_native, "_local_capabilities", lambda: local)
    assert build_native._gencode_flags(str(nvcc))[1::2] == [f"arch={item}" for item in wanted]


def test_a_thread_that_cannot_start_does_not_end_the_process(tmp_path):
    (tmp_path / "few.cpp").write_text(FEW_THREADS)
    command = [*shlex.split(os.environ.get("CXX", "g++")), "-std=c++17", "-pthread", "-I", str(NATIVE / "include")]
    subprocess.run([*command, str(tmp_path / "few.cpp"), "-o", str(tmp_path / "few"), "-ldl"], check=True)
    result = subprocess.run([str(tmp_path / "few")], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "all done\n", "")


def test_finds_nvcc_in_cuda_home_first(build_native, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build_native.find_nvcc() == str(tmp_path / "bin" / "nvcc")
