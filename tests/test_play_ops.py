"""What only playing needs of blendshape_ops: half-precision differences, the drive of frames, bytes.

By the C++ build, by the CUDA kernels in emulation, and by them on a GPU where there is one.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from blendshape_ops import (
    Differences,
    FrameCodes,
    HalfDifferences,
    _native,
    backends,
    blend_pose_color,
    blend_pose_color_half,
    drive_frames,
    limit_codes,
    to_bytes,
)
from torch import Tensor

from flame import pose_head
from flame.rotations import rigid_align
from player.tables import drive_tables
from tests.blendshape_ops_scene import cast, make_scene, relative_error, values_and_gradients
from tests.cuda_emulation import compile_emulated
from tests.players import made_up_player, random_codes
from tests.test_blendshape_ops_cuda import adam_run

CPU = torch.device("cpu")
SINGLE = 3e-5  # single precision in another order of summation, as in test_blendshape_ops_cuda.py
HALF = 2**-11  # relative rounding of a half-precision number


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The CUDA sources compiled as C++ for the emulation."""
    sources: list[str | Path] = ["src/blend_cuda.cu", "src/play_cuda.cu", "src/adam_cuda.cu"]
    return compile_emulated(tmp_path_factory.mktemp("emulation"), "blendshape-ops", sources)


def test_cuda_sources_and_python_agree_on_structures_and_columns(library: ctypes.CDLL) -> None:
    assert _native.disagreements(library) == []


@contextlib.contextmanager
def emulated(library: ctypes.CDLL) -> Iterator[None]:
    """Within, CPU tensors are worked on by the CUDA kernels."""
    load = _native.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_native, "load", lambda kind: library if kind == "cuda" else load(kind))
        patch.setattr(backends, "resolve", lambda backend, _tensor: "torch" if backend == "torch" else "cuda")
        patch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
        patch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
        yield


@pytest.fixture(params=["cpp", "emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, library: ctypes.CDLL) -> Iterator[str]:
    """Where to put tensors; what works on them there is the C++ build, the emulated kernels or the kernels."""
    with emulated(library) if request.param == "emulated" else contextlib.nullcontext():
        yield "cuda" if request.param == "cuda" else "cpu"


@pytest.mark.parametrize(("sh_degree", "sizes"), [
    (0, {"frames": 1}), (1, {"frames": 2}), (2, {"frames": 3}), (3, {"frames": 11}), (3, {"gaussians": 600}),
    (3, {"density": 0.0}), (3, {"triangles": 0}), (3, {"expressions": 1}), (3, {"expressions": 100, "frames": 8}),
    (3, {"triangles": 150}), (3, {"gaussians": 900, "triangles": 3}),
    (3, {"without": "pre_offsets"}), (3, {"without": "post_offsets"}),
], ids=str)
def test_emulated_kernels_blend_forward_and_backward(library: ctypes.CDLL, sh_degree: int, sizes: dict) -> None:
    missing: dict[str, Any] = {sizes["without"]: None} if "without" in sizes else {}
    scene = make_scene(**{"gaussians": 70} | {name: size for name, size in sizes.items() if name != "without"})
    scene.drive = dataclasses.replace(scene.drive, **missing)
    wanted = values_and_gradients(scene, sh_degree, "torch")
    with emulated(library):
        got = values_and_gradients(cast(scene, torch.float32), sh_degree, "cuda")
    errors = {name: relative_error(got[name], wanted[name]) for name in wanted}
    assert max(errors.values()) < SINGLE, errors


@pytest.mark.parametrize("frames", [1, 5, 48, 49, 100])
def test_emulated_adam_takes_any_number_of_frames(library: ctypes.CDLL, frames: int) -> None:
    """48 frames fit in the shared memory of a block; a Gaussian has more pairs than a warp takes at a time."""
    scene = make_scene(gaussians=5, expressions=37, frames=frames, density=0.9)
    with emulated(library):
        got, optimizer = adam_run(cast(scene, torch.float32), "cuda", 5)
    wanted, reference = adam_run(cast(scene, torch.float64), "cpp", 5)
    # Steps are of 5e-3; where gradients nearly cancel, a step keeps only some 1e-3 of itself in single precision.
    for name, table in wanted.items():
        assert torch.allclose(got[name].double(), table, rtol=0, atol=1e-5), name
    assert int(optimizer.steps) == 5
    assert relative_error(optimizer.difference_exp_avg, reference.difference_exp_avg) < SINGLE


def rounded(half: HalfDifferences, old: Differences) -> Differences:
    """Ordinary differences that hold exactly what `half` does."""
    values = (half.values.double() * half.scales.double())[:, :60].to(old.values.dtype)
    return Differences(values, old.offsets, old.gaussian, old.expression, torch.ones_like(old.mask))


@pytest.mark.parametrize("sizes", [
    {"gaussians": 70, "frames": 1}, {"gaussians": 70, "frames": 2}, {"gaussians": 70, "frames": 3},
    {"gaussians": 70, "frames": 11}, {"gaussians": 0}, {"gaussians": 1}, {"density": 0.0}, {"triangles": 0},
    {"expressions": 60, "density": 1.0}, {"frames": 0},
], ids=str)
@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_half_rows_are_blended_as_they_are(device: str, sizes: dict, sh_degree: int) -> None:
    scene = make_scene(**sizes)
    half = HalfDifferences.of(cast(scene, torch.float32).differences)
    wanted = blend_pose_color(scene.neutral, rounded(half, scene.differences), scene.binding, scene.drive, sh_degree,
                              "torch")
    single = cast(scene, torch.float32, device)
    half = HalfDifferences.of(single.differences)
    got = blend_pose_color_half(single.neutral, half, single.binding, single.drive, sh_degree)
    for name, value in vars(wanted).items():
        assert getattr(got, name).shape == value.shape
        assert relative_error(getattr(got, name), value) < SINGLE, name


def test_half_rows_keep_small_and_large_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    differences = Differences.from_mask(torch.rand(50, 4, generator=generator) + 0.1)
    sizes = torch.logspace(-9, 6, 60)  # half precision itself ends at 6e-8 and 7e4
    differences.values[:] = sizes * torch.randn(differences.values.shape, generator=generator)
    differences.values[:, 59] = 0
    half = HalfDifferences.of(differences)
    assert half.values.dtype == torch.float16
    assert half.values.shape == (200, 64)
    wanted = differences.values.double() * differences.mask.double()[:, None]
    got = half.values[:, :60].double() * half.scales[:60].double()
    # float32 rounds the product with the mask first
    assert bool(((got - wanted).abs() <= (HALF + 1e-7) * wanted.abs()).all())
    assert bool((half.values[:, 60:] == 0).all())


def test_half_rows_of_nothing_and_of_nonsense() -> None:
    empty = HalfDifferences.of(Differences.from_mask(torch.zeros(3, 4)))
    assert (empty.num_gaussians, empty.num_expressions, len(empty.values)) == (3, 0, 0)
    bad = Differences.from_mask(torch.ones(3, 4))
    bad.values[1, 2] = torch.inf
    with pytest.raises(ValueError, match="values: wanted finite numbers"):
        HalfDifferences.of(bad)


def test_half_arguments_are_checked() -> None:
    scene = cast(make_scene(), torch.float32)
    half = HalfDifferences.of(scene.differences)
    arguments = (scene.neutral, half, scene.binding, scene.drive, 3)
    with pytest.raises(TypeError, match="neutral: wanted torch.float32"):
        blend_pose_color_half(scene.neutral.double(), *arguments[1:])
    one_more = torch.cat([half.offsets, half.offsets[-1:]])
    with pytest.raises(ValueError, match="differences: wanted 23 Gaussians, got 24"):
        blend_pose_color_half(scene.neutral, dataclasses.replace(half, offsets=one_more), *arguments[2:])
    with pytest.raises(ValueError, match="offsets: wanted numbers that rise from 0"):
        blend_pose_color_half(scene.neutral, dataclasses.replace(half, offsets=half.offsets[1:]), *arguments[2:])
    with pytest.raises(ValueError, match=r"values: wanted shape \[any, 64\]"):
        blend_pose_color_half(scene.neutral, dataclasses.replace(half, values=half.values[:, :60]), *arguments[2:])
    with pytest.raises(ValueError, match="beta: wanted at least 7 expressions, got 6"):
        blend_pose_color_half(scene.neutral, dataclasses.replace(half, num_expressions=7), *arguments[2:])
    with pytest.raises(ValueError, match="have no torch backend"):
        blend_pose_color_half(*arguments, backend="torch")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "correctives"])
def driven(request: pytest.FixtureRequest):
    """A player, codes of three frames, and the same with cameras as `drive_frames` takes them."""
    player = made_up_player(CPU, correctives=request.param)
    codes = random_codes(3, player.head.n_expression, player.head.n_shape, torch.Generator().manual_seed(1))
    cameras = player.cameras_of([0, 3, 5])
    names = ("expression", "neck", "jaw", "eyes", "eyelids")
    frames = FrameCodes(**{name: getattr(codes, name) for name in names}, R=cameras.R, t=cameras.t)
    return player, codes, cameras, frames


def moved(record, device: str):
    """A record of tensors on `device`."""
    tensors = {name: value.to(device) for name, value in vars(record).items() if isinstance(value, Tensor)}
    return dataclasses.replace(record, **tensors)


def test_the_drive_is_the_rigs(device: str, driven) -> None:
    player, codes, cameras, frames = driven
    wanted = player.rig.with_codes(codes).drive(torch.arange(3), cameras.centers)
    got = moved(drive_frames(moved(drive_tables(player.rig, player.avatar), device), moved(frames, device)), "cpu")
    limits = player.avatar.code_range
    assert float((got.beta - limit_codes(wanted.beta, limits)).abs().max()) < 1e-7  # a rounded quotient and a product
    assert (limit_codes(wanted.beta, limits) != wanted.beta.clamp(limits[0], limits[1])).any()  # far out of range
    # float32 sums in another order: of numbers below 1, and for the skull's rotation divided by an anchor's 5 cm
    assert float((got.bones - wanted.bones).abs().max()) < 3e-6
    assert float((got.camera_centers - cameras.centers).abs().max()) < 1e-6
    used = player.avatar.binding.triangle.long().unique()
    used = used[used >= 0]
    assert float((got.triangle_maps - wanted.triangle_maps)[:, used].abs().max()) < 1e-5
    for name in ("pre_offsets", "post_offsets"):
        offsets = getattr(wanted, name)
        assert (getattr(got, name) is None) == (offsets is None)
        if offsets is not None:
            assert float((getattr(got, name) - offsets).abs().max()) < 1e-6


def test_the_skull_is_aligned_in_double_precision(driven) -> None:
    """The C++ build in float64 against the SVD's alignment of the posed vertices: rounding only."""
    player, codes, _, frames = driven
    tables = drive_tables(player.rig, player.avatar)
    doubles: dict[str, Any] = {name: value.double() for name, value in vars(tables).items()
                               if isinstance(value, Tensor) and value.is_floating_point()}
    exact = dataclasses.replace(tables, **doubles)
    got = drive_frames(exact, FrameCodes(**{name: value.double() for name, value in vars(frames).items()}))
    shape = player.rig.codes.shape.double()
    moved = pose_head(player.head, shape, *(getattr(codes, name).double() for name in
                                            ("expression", "jaw", "eyes", "eyelids", "neck")))
    anchor = player.head.regions["back_of_head"]
    wanted = rigid_align(player.rig.posed.neutral.double()[anchor], moved.vertices[:, anchor])
    # the tables themselves are float32
    assert float((got.bones[:, 5] - wanted).abs().max()) < 3e-6
    rotation = got.bones[:, 5, :, :3]
    assert float((rotation @ rotation.mT - torch.eye(3).double()).abs().max()) < 1e-13


def test_drive_arguments_are_checked(driven) -> None:
    player, _, _, frames = driven
    tables = drive_tables(player.rig, player.avatar)
    with pytest.raises(ValueError, match=r"jaw: wanted shape \[3, 6\], got \[2, 6\]"):
        drive_frames(tables, dataclasses.replace(frames, jaw=frames.jaw[:2]))
    with pytest.raises(TypeError, match="t: wanted torch.float32, got torch.float64"):
        drive_frames(tables, dataclasses.replace(frames, t=frames.t.double()))
    with pytest.raises(ValueError, match="eyes: wanted device cpu, got meta"):
        drive_frames(tables, dataclasses.replace(frames, eyes=frames.eyes.to("meta")))
    with pytest.raises(ValueError, match="drive_frames has no torch backend"):
        drive_frames(tables, frames, backend="torch")
    with pytest.raises(TypeError, match="base: wanted float32 or float64, got torch.float16"):
        dataclasses.replace(tables, base=tables.base.half())
    with pytest.raises(ValueError, match=r"linear: wanted shape"):
        dataclasses.replace(tables, linear=tables.linear[1:])
    with pytest.raises(TypeError, match="parents: wanted torch.int32"):
        dataclasses.replace(tables, parents=tables.parents.long())


def assert_same_bytes(got: Tensor, image: Tensor) -> None:
    """Multiplication and addition may be one operation: a value at an edge may then fall to the other side."""
    error = (got.int() - (image.clamp(0, 1) * 255 + 0.5).byte().permute(0, 2, 3, 1).int()).abs()
    assert int(error.max()) <= 1
    assert float(error.float().mean()) < 1e-3


def test_bytes_are_rounded_and_cut_off(device: str) -> None:
    values = torch.tensor([-1.0, 0.0, 0.49 / 255, 0.51 / 255, 0.5, 1.0, 3.0, torch.nan, torch.inf, 254.6 / 255])
    wanted = torch.tensor([0, 0, 0, 1, 128, 255, 255, 0, 255, 255], dtype=torch.uint8)
    image = torch.zeros(2, 3, 5, 2)
    image[1, 2] = values.view(5, 2)
    every = torch.rand(2, 3, 70, 33, generator=torch.Generator().manual_seed(0))
    got, all_of_them = to_bytes(image.to(device)).cpu(), to_bytes(every.to(device)).cpu()
    assert got.shape == (2, 5, 2, 3)
    assert torch.equal(got[1, ..., 2].flatten(), wanted)
    assert int(got[0].sum() + got[1, ..., :2].sum()) == 0
    assert_same_bytes(all_of_them, every)


def test_bytes_want_float_pictures() -> None:
    with pytest.raises(ValueError, match=r"image: wanted shape \[any, 3, any, any\]"):
        to_bytes(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="to_bytes has no torch backend"):
        to_bytes(torch.zeros(1, 3, 4, 4), backend="torch")


@pytest.mark.parametrize(("name", "value", "message"), [
    ("map_offsets", 1, "map_offsets: wanted numbers that rise from 0 to"),
    ("map_expression", -1, "map_expression: wanted 0 to "),
    ("map_expression", 10_000, "map_expression: wanted 0 to .* to 10000"),
    ("parents", 5, r"parents: wanted each joint's parent before it, got \[.*5\]"),
])
def test_drive_tables_refuse_indices_out_of_bounds(name: str, value: int, message: str) -> None:
    player = made_up_player(CPU)
    tables = drive_tables(player.rig, player.avatar)
    changed = getattr(tables, name).clone()
    changed[0 if name != "parents" else -1] = value
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(tables, **{name: changed})
