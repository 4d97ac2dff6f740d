"""The CUDA kernels, run thread by thread on the CPU (submodules/native/emulation), against the C++ rasterizer.

This proves their logic where there is no GPU; test_rasterizer_cuda.py runs the same kernels on one.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diff_gaussian_rasterization import DensifyStats, _native, _passes
from torch import Tensor

from tests.cuda_emulation import compile_emulated
from tests.rasterizer_scenes import INPUTS, backgrounds, random_scene
from tests.test_rasterizer_cuda import assert_same, gradients

# The module, which the package's function of the same name hides.
RASTERIZE = importlib.import_module("diff_gaussian_rasterization.rasterize")

# Single precision in another order of summation, and cuts at alpha = 1/255 that rounding decides: measured below 4e-4.
TOLERANCE = 5e-3

SCAN = """
#include "rasterize_cuda.cu"
extern "C" __attribute__((visibility("default"))) void scan_counts(DgrCudaWork* work, int tiles) {
    launch("scan_kernel", scan_kernel, dim3(1), SCAN_THREADS, nullptr, *work, tiles);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The CUDA sources compiled as C++ for the emulation."""
    folder = tmp_path_factory.mktemp("emulation")
    (folder / "scan.cpp").write_text(SCAN)
    return compile_emulated(folder, "diff-gaussian-rasterization", [folder / "scan.cpp"], "-O2")


def test_cuda_sources_and_python_agree_on_structures(library):
    assert _native.disagreements(library) == []


@contextlib.contextmanager
def emulated(library: ctypes.CDLL) -> Iterator[pytest.MonkeyPatch]:
    """Within, CPU tensors are drawn by the CUDA kernels."""
    load = _native.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "load", lambda kind: library if kind == "cuda" else load(kind))
        patch.setattr(RASTERIZE, "CpuPass", _passes.CudaPass)
        patch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
        patch.setattr(torch.cuda, "current_stream", lambda _device: SimpleNamespace(cuda_stream=0))
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        yield patch
    _passes._capacity.cache_clear()


def compare(
    library: ctypes.CDLL, scene: dict[str, Any], size: tuple[int, int], background: Tensor | None = None, **options: Any
) -> dict[str, Tensor]:
    """Draws a scene both ways, holds one against the other, and returns the emulated results."""
    with emulated(library) as patch:
        if "pairs" in options:
            pairs = options.pop("pairs")
            patch.setattr(_passes._Capacity, "pairs", lambda _self, guess: pairs)
        got = gradients(scene, size, background, "cpu", **options)
    assert_same(got, gradients(scene, size, background, "cpu", **options), TOLERANCE)
    return got


@pytest.mark.parametrize(
    "shape, kind",
    [((1, 0, 20, 9), "color"), ((2, 7, 1, 1), "color"), ((3, 40, 15, 50), "black"), ((2, 500, 40, 24), "black")]
    + [((2, 60, 33, 17), kind) for kind in ("black", "color", "per frame", "image")],
)
@pytest.mark.parametrize("with_alpha", [True, False])
def test_matches_the_cpu(library, shape, kind, with_alpha):
    batch, count, *size = shape
    compare(library, random_scene(batch, count, *size), size, backgrounds(batch, *size)[kind], with_alpha=with_alpha)


@pytest.mark.parametrize("width, height", [(230, 70), (40, 330)])
def test_large_splats_are_visited_by_their_warp(library, width, height):
    """Next to small ones, over more rows and columns of tiles than a warp visits at once, and beyond the picture."""
    scene = random_scene(2, 70, width, height)
    scene["scales"][:, ::3] *= 6
    scene["scales"][0, 7] *= 40
    scene["opacities"] = scene["opacities"] * 0.3
    got = compare(library, scene, (width, height))
    assert got["radii"].max() > 100 and got["radii"].median() < 30


@pytest.mark.parametrize("pairs", [1, 300])
def test_too_little_memory_costs_time_but_no_pixel(library, pairs):
    scene = random_scene(2, 900, 33, 16)
    scene["opacities"] = scene["opacities"] * 0.2
    got = compare(library, scene, (33, 16), pairs=pairs)
    assert torch.equal(got["image"], compare(library, scene, (33, 16))["image"])


@pytest.mark.parametrize("count, pairs", [(1000, None), (7500, None), (1500, 1)])
def test_long_lists_are_sorted(library, count, pairs):
    """Below and above what fits in shared memory; and searched for in several rounds."""
    scene = random_scene(1, count, 16, 16)
    scene["scales"], scene["opacities"] = scene["scales"] * 8, scene["opacities"] * 0.03
    compare(library, scene, (16, 16), **({} if pairs is None else {"pairs": pairs}))


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors"])
def test_non_finite_gaussians_are_skipped(library, name):
    scene = random_scene(1, 50, 32, 20)
    scene[name][0, 49:] = float("nan")
    got = compare(library, scene, (32, 20))
    assert all((got[key][:, 49] == 0).all() for key in INPUTS[:5])


def test_memory_grows_to_what_was_needed(library):
    scene = {name: value.float() for name, value in random_scene(1, 3000, 33, 17).items()}
    scene["scales"] = scene["scales"] * 4
    with emulated(library):
        RASTERIZE.rasterize(**scene, width=33, height=17)
        capacity = _passes._capacity(None, 1, 33, 17)
        needed = int(capacity.needed[0])
        assert needed > 3000
        assert capacity.pairs(guess=0) >= 1.5 * needed - 1
        capacity.needed[0] = 10
        assert capacity.pairs(guess=0) == 4096, "memory shrinks again, to a floor"


def test_cursors_do_not_wrap_beyond_two_to_the_32(library):
    """Counts as of 2^31 - 1 Gaussians in every tile: no cursor may come round to a place that was given."""
    most, step, tiles = 2**31 - 1, _passes.CURSOR_STEP, 5
    cursors = torch.zeros(tiles * step, dtype=torch.int64)
    cursors[::step] = torch.tensor([10, most, most, most, most])
    cursors = cursors.to(torch.uint32) if hasattr(torch, "uint32") else cursors.int()
    begins, needed = torch.zeros(tiles + 1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    work = _passes._Work(tile_cursor=cursors.data_ptr(), tile_begin=begins.data_ptr(), needed=needed.data_ptr(),
                         capacity=most)
    library.scan_counts(ctypes.byref(work), tiles)
    starts = [int(value) & 0xFFFFFFFF for value in cursors[::step].tolist()]
    ends = [int(value) & 0xFFFFFFFF for value in begins.tolist()]
    assert starts == [0, 10, 2**31, 2**31, 2**31] == ends[:tiles]
    assert ends[-1] == 2**31 and int(needed[0]) & 0xFFFFFFFF == 2**31
    assert all(start + count < 2**32 for start, count in zip(starts, [10, *[most] * 4], strict=True))


@pytest.mark.parametrize("kind", ["color", "image"])
def test_kernels_write_only_within_their_arrays(library, monkeypatch, kind):
    guard, pattern = 4096, 0x5A
    given: list[tuple[Tensor, int]] = []

    def allocate(device: torch.device, *sizes: int) -> tuple[Tensor, list[int]]:
        """Arrays of exactly these sizes with guards around them, aligned as the package's."""
        arrays = [torch.full((2 * guard + -(-size // 8) * 8,), pattern, dtype=torch.uint8) for size in sizes]
        given.extend(zip(arrays, sizes, strict=True))
        return arrays[0], [array.data_ptr() + guard for array in arrays]

    monkeypatch.setattr(_passes, "_allocate", allocate)
    compare(library, random_scene(2, 60, 33, 17), (33, 17), backgrounds(2, 33, 17)[kind])
    assert len(given) == 5 + 3
    for array, size in given:
        assert (array[:guard] == pattern).all() and (array[guard + size :] == pattern).all()


def test_arrays_in_one_piece_of_memory_do_not_overlap():
    sizes = (1, 0, 256, 257, 5)
    memory, places = _passes._allocate(torch.device("cpu"), *sizes)
    starts = [place - memory.data_ptr() for place in places]
    assert starts == [0, 256, 256, 512, 1024] and memory.numel() >= 1024 + 5


def test_statistics_do_not_need_the_gradient_of_screen_means(library):
    scene = {name: tensor.float() for name, tensor in random_scene(2, 60, 33, 17).items()}
    sums = []
    for means2d in (None, torch.zeros(2, 60, 2, requires_grad=True)):
        stats = DensifyStats.zeros(60)
        with emulated(library):
            leaf = scene["colors"].clone().requires_grad_()
            output = RASTERIZE.rasterize(**(scene | {"colors": leaf}), width=33, height=17, stats=stats,
                                         means2d=means2d)
            (output.image.square().sum() + output.alpha.sum()).backward()
        sums.append(stats)
    assert sums[0].grad_sum.any()
    assert all(torch.equal(got, wanted) for got, wanted in zip(vars(sums[0]).values(), vars(sums[1]).values(),
                                                               strict=True))
