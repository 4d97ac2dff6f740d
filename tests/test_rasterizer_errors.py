"""What the rasterizer says to wrong arguments."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from diff_gaussian_rasterization import DensifyStats, GaussianRasterizer, _native, rasterize

from tests.rasterizer_scenes import random_scene
from tests.test_rasterizer_familiar import make_settings

GOOD = random_scene(2, 5, 20, 10)

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "not a tensor": ({"means": [1.0]}, TypeError, "means: wanted a tensor, got list"),
    "missing": ({"colors": None}, TypeError, "colors: wanted a tensor, got NoneType"),
    "integers": ({"quats": GOOD["quats"].long()}, TypeError, "quats: wanted float32 or float64, got torch.int64"),
    "half precision": (
        {"means": GOOD["means"].half()},
        TypeError,
        "means: wanted float32 or float64, got torch.float16",
    ),
    "mixed precision": (
        {"scales": GOOD["scales"].float()},
        TypeError,
        "scales: wanted the dtype of means, torch.float64, got torch.float32",
    ),
    "another device": ({"R": GOOD["R"].to("meta")}, ValueError, "R: wanted the device of means, cpu, got meta"),
    "no batch": ({"means": GOOD["means"][0]}, ValueError, "means: wanted shape [B,N,3] with B at least 1, got [5, 3]"),
    "empty batch": (
        {"means": GOOD["means"][:0]},
        ValueError,
        "means: wanted shape [B,N,3] with B at least 1, got [0, 5, 3]",
    ),
    "four columns": (
        {"means": torch.rand(2, 5, 4).double()},
        ValueError,
        "means: wanted shape [2, 5, 3], got [2, 5, 4]",
    ),
    "column of opacities": (
        {"opacities": GOOD["opacities"][..., None]},
        ValueError,
        "opacities: wanted shape [2, 5], got [2, 5, 1]",
    ),
    "one camera for two frames": ({"t": GOOD["t"][:1]}, ValueError, "t: wanted shape [2, 3], got [1, 3]"),
    "3D screen means": (
        {"means2d": torch.rand(2, 5, 3).double()},
        ValueError,
        "means2d: wanted shape [2, 5, 2], got [2, 5, 3]",
    ),
    "fractional width": ({"width": 20.0}, TypeError, "width: wanted an int, got float"),
    "boolean height": ({"height": True}, TypeError, "height: wanted an int, got bool"),
    "no pixels": ({"height": 0}, ValueError, "height: wanted 1 to 16384 pixels, got 0"),
    "too many pixels": ({"width": 16385}, ValueError, "width: wanted 1 to 16384 pixels, got 16385"),
    "background of another size": (
        {"background": torch.rand(2, 3, 20, 10).double()},
        ValueError,
        "background: wanted shape [3], [2, 3] or [2, 3, 10, 20], got [2, 3, 20, 10]",
    ),
    "background not a tensor": ({"background": 1.0}, TypeError, "background: wanted a tensor, got float"),
    "background precision": (
        {"background": torch.rand(3)},
        TypeError,
        "background: wanted the dtype of means, torch.float64, got torch.float32",
    ),
    "unknown backend": ({"backend": "metal"}, ValueError, "backend: wanted one of auto, torch, cpp, cuda, got 'metal'"),
    "CUDA on CPU tensors": ({"backend": "cuda"}, ValueError, "backend 'cuda': wanted tensors on cuda, got cpu"),
    "statistics of the definition": (
        {"backend": "torch", "stats": DensifyStats.zeros(5)},
        ValueError,
        'stats: wanted None with backend "torch"',
    ),
    "statistics of another size": (
        {"stats": DensifyStats.zeros(4)},
        ValueError,
        "stats.grad_sum: wanted (dtype, shape, device, contiguous) (torch.float32, [5], device(type='cpu'), True), got",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case):
    change, error, message = WRONG[case]
    with pytest.raises(error, match="^" + re.escape(message)):
        rasterize(**(GOOD | {"width": 20, "height": 10} | change))


def test_more_than_two_to_the_32_pairs_are_refused_before_lists_are_made():
    scene = {name: value.float() for name, value in random_scene(1, 1, 4096, 4096).items()}
    count = 2**16 + 1  # each touches all of the 2^16 tiles
    scene |= {name: scene[name][:, :1].expand(1, count, *scene[name].shape[2:]).contiguous()
              for name in ("means", "quats", "scales", "opacities", "colors")}
    scene["means"], scene["scales"] = torch.zeros(1, count, 3), torch.full((1, count, 3), 100.0)
    scene["opacities"] = torch.full((1, count), 0.9)
    with pytest.raises(_native.NativeLibraryError, match=f"{count * 2**16} pairs of a Gaussian and a tile, wanted at"):
        rasterize(**scene, width=4096, height=4096)


def test_a_library_that_is_not_built_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(_native, "_FOLDER", tmp_path / "diff_gaussian_rasterization")
    _native.load.cache_clear()
    command = "BUILD_CUDA=1 pip install --no-build-isolation ./submodules/diff-gaussian-rasterization"
    try:
        with pytest.raises(_native.NativeLibraryError, match=f"is not built for cuda: .* build it with: {command}"):
            _native.load("cuda")
        (tmp_path / "diff_gaussian_rasterization").mkdir()
        (tmp_path / "diff_gaussian_rasterization" / "_native_cpu.so").write_text("not a library")
        with pytest.raises(_native.NativeLibraryError, match="does not load .* build it again with: pip install"):
            _native.load("cpu")
    finally:
        _native.load.cache_clear()


def test_a_native_failure_becomes_an_exception():
    library = _native.load("cpu")
    _native.check(library, "dgr", 0)
    with pytest.raises(_native.NativeLibraryError, match="^dgr: "):
        _native.check(library, "dgr", 1)


def test_wrong_settings_of_the_familiar_interface():
    with pytest.raises(ValueError, match="sh_degree: wanted 0 to 3, got 4"):
        GaussianRasterizer(make_settings(sh_degree=4))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"colors_precomp": None}, "shs, colors_precomp: wanted exactly one of them, got 0"),
        ({"shs": torch.rand(4, 16, 3)}, "shs, colors_precomp: wanted exactly one of them, got 2"),
        (
            {"colors_precomp": None, "shs": torch.rand(4, 9, 3)},
            "shs: wanted shape [N,16 or more,3] for degree 3, got [4, 9, 3]",
        ),
        ({"cov3D_precomp": torch.rand(4, 6)}, "cov3D_precomp: wanted None"),
        ({"scales": None}, "scales, rotations: wanted both, got None"),
    ],
)
def test_wrong_arguments_of_the_familiar_interface(change, message):
    good = {
        "means3D": torch.rand(4, 3),
        "means2D": None,
        "opacities": torch.rand(4, 1),
        "colors_precomp": torch.rand(4, 3),
    }
    good |= {"scales": torch.rand(4, 3), "rotations": torch.rand(4, 4)}
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        GaussianRasterizer(make_settings(sh_degree=3))(**(good | change))
