"""LPIPS's distance of features: its definition against a slow one; the CUDA kernel, emulated and real, against it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from blendshape_ops import feature_distance
from torch import Tensor

from tests.cuda_emulation import compile_emulated
from tests.test_play_ops import emulated

SINGLE = 3e-5  # single precision in another order of summation, as in test_blendshape_ops_cuda.py
BFLOAT16 = 2**-8  # a gradient is rounded once


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    sources: list[str | Path] = ["src/feature_distance_cuda.cu"]
    return compile_emulated(tmp_path_factory.mktemp("emulation"), "blendshape-ops", sources)


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, library: ctypes.CDLL) -> Iterator[str]:
    with emulated(library) if request.param == "emulated" else contextlib.nullcontext():
        yield "cuda" if request.param == "cuda" else "cpu"


def features(*shape: int, seed: int) -> Tensor:
    """Like those behind a ReLU: half of them zero."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).clamp(min=0)


def inputs(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    weights = torch.rand(shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return features(*shape, seed=0), features(*shape, seed=1), weights


def run(a: Tensor, b: Tensor, weights: Tensor, backend: str) -> list[Tensor]:
    """The map and both gradients, in float64."""
    a, b = (t.clone().requires_grad_() for t in (a, b))
    out = feature_distance(a, b, weights, backend)
    upstream = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view_as(out).to(out)
    gradients = torch.autograd.grad((out * upstream).sum(), [a, b])
    return [t.detach().double().cpu() for t in (out, *gradients)]


def test_the_definition_is_the_published_sum() -> None:
    a, b, weights = inputs(2, 5, 3, 4)
    found = feature_distance(a, b, weights)
    for picture, y, x in [(0, 0, 0), (1, 2, 3), (0, 1, 2)]:
        one, other = a[picture, :, y, x], b[picture, :, y, x]
        unit = one / one.norm() - other / other.norm()
        assert float(found[picture, y, x]) == pytest.approx(float((weights * unit * unit).sum()), rel=1e-8)


def test_the_definition_has_the_gradients_of_finite_differences() -> None:
    a, b, weights = inputs(1, 4, 2, 3)
    a, b = ((t + 0.1).requires_grad_() for t in (a, b))
    assert torch.autograd.gradcheck(lambda x, y: feature_distance(x, y, weights), (a, b))


# Channels below, at and across a warp; pixels that do not fill the last block.
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 3, 4), (1, 32, 4, 4), (2, 65, 3, 7), (1, 384, 2, 5)], ids=str)
def test_kernel_equals_definition(device: str, shape: tuple[int, ...]) -> None:
    given = inputs(*shape)
    a, b, weights = (t.float().to(device) for t in given)
    found = run(a, b, weights, "cuda")
    for got, wanted in zip(found, run(*given, "torch"), strict=True):
        assert (got - wanted).abs().max() <= SINGLE * wanted.abs().max().clamp(min=1)


def test_kernel_takes_bfloat16(device: str) -> None:
    a, b, weights = inputs(2, 70, 3, 3)
    a, b = a.bfloat16(), b.bfloat16()
    found = run(a.to(device), b.to(device), weights.float().to(device), "cuda")
    for got, wanted in zip(found, run(a.double(), b.double(), weights, "torch"), strict=True):
        assert (got - wanted).abs().max() <= BFLOAT16 * wanted.abs().max()


def test_kernel_takes_any_memory_layout(device: str) -> None:
    a, b, weights = (t.float().to(device) for t in inputs(2, 6, 3, 4))
    wanted = feature_distance(a, b, weights, "cuda")
    mixed = feature_distance(a.contiguous(memory_format=torch.channels_last), b.transpose(2, 3).contiguous()
                             .transpose(2, 3), weights, "cuda")
    assert torch.equal(mixed, wanted)


def test_pixels_without_features_are_finite(device: str) -> None:
    """Flat black leaves no feature: beside the same the distance is 0, and no gradient is NaN."""
    nothing, (_, some, weights) = torch.zeros(1, 8, 2, 2, device=device), (t.float().to(device) for t in
                                                                           inputs(1, 8, 2, 2))
    for other in (nothing, some):
        out, *gradients = run(nothing, other, weights, "cuda")
        assert all(bool(t.isfinite().all()) for t in (out, *gradients))
    assert float(feature_distance(nothing, nothing, weights, "cuda").abs().max()) == 0


def test_no_pixels(device: str) -> None:
    a, b, weights = (t.float().to(device) for t in inputs(0, 8, 2, 2))
    assert feature_distance(a, b, weights, "cuda").shape == (0, 2, 2)


def test_arguments_are_checked() -> None:
    a, b, weights = inputs(1, 4, 2, 2)
    with pytest.raises(ValueError, match=r"b: wanted shape \[1, 4, 2, 2\], got \[1, 3, 2, 2\]"):
        feature_distance(a, b[:, :3], weights)
    with pytest.raises(TypeError, match=r"b: wanted torch.float64, got torch.float32"):
        feature_distance(a, b.float(), weights)
    with pytest.raises(ValueError, match=r"weights: wanted shape \[4\], got \[5\]"):
        feature_distance(a, b, torch.ones(5, dtype=torch.float64))
    with pytest.raises(ValueError, match="has no cpp backend"):
        feature_distance(a, b, weights, "cpp")
