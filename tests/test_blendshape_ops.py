"""The fused blend + pose + colour against its definition, finite differences and itself on other thread counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from blendshape_ops import Binding, Differences, blend_pose_color
from blendshape_ops.reference import pair_gradient_torch

from tests.blendshape_ops_scene import (
    SHARED,
    cast,
    make_scene,
    relative_error,
    upstream,
    values_and_gradients,
)

# Double precision: two orders of summation over a few dozen terms differ by some 1e-15; 1e-12 leaves room for the
# amplification by 1/distance and 1/|q|.
DOUBLE = 1e-12
# Single precision: measured at most 4e-6 on these scenes; the polar decomposition and 1/|q| amplify 6e-8.
SINGLE = 3e-5


def assert_equal_results(got, wanted, tolerance):
    assert got.keys() == wanted.keys()
    errors = {name: relative_error(got[name], wanted[name]) for name in wanted}
    assert all(torch.isfinite(t).all() for t in got.values())
    assert max(errors.values()) <= tolerance, errors


@pytest.mark.parametrize("sh_degree", range(4))
@pytest.mark.parametrize("expressions", [1, 6, 50, 100])
def test_cpp_equals_definition(sh_degree, expressions):
    scene = make_scene(expressions=expressions)
    wanted = values_and_gradients(scene, sh_degree, "torch")
    assert_equal_results(values_and_gradients(scene, sh_degree, "cpp"), wanted, DOUBLE)
    assert all(wanted[f"v_{name}"].abs().max() > 0 for name in ("neutral", "values", "beta", "bones"))


@pytest.mark.parametrize("sh_degree", range(4))
def test_cpp_in_single_precision(sh_degree):
    scene = make_scene(gaussians=200)
    wanted = values_and_gradients(scene, sh_degree, "torch")
    assert_equal_results(values_and_gradients(cast(scene, torch.float32), sh_degree, "cpp"), wanted, SINGLE)


@pytest.mark.parametrize(
    "sizes",
    [
        {"gaussians": 0},
        {"gaussians": 1},
        {"density": 0.0},  # no pairs
        {"triangles": 0},  # teeth only
        {"frames": 1},
        {"frames": 0},
        {"frames": 9},
    ],
    ids=str,
)
def test_sizes_at_the_edge(sizes):
    scene = make_scene(**sizes)
    assert_equal_results(values_and_gradients(scene, 3, "cpp"), values_and_gradients(scene, 3, "torch"), DOUBLE)


@pytest.mark.parametrize("missing", ["pre_offsets", "post_offsets"])
def test_offsets_may_be_left_out(missing):
    scene = make_scene()
    with_all = values_and_gradients(scene, 3, "cpp")
    without: dict[str, Any] = {missing: None}
    scene.drive = replace(scene.drive, **without)
    got = values_and_gradients(scene, 3, "cpp")
    assert_equal_results(got, values_and_gradients(scene, 3, "torch"), DOUBLE)
    assert not torch.allclose(got["means"], with_all["means"])


@pytest.mark.parametrize("axis", range(3))
def test_half_turns_use_every_quaternion_formula(axis):
    """A turn by 170 degrees about an axis makes that axis's component of the quaternion the largest."""
    scene = make_scene()
    angle, i, j = torch.tensor(170.0).deg2rad(), (axis + 1) % 3, (axis + 2) % 3
    turn = torch.eye(3, dtype=torch.float64)
    turn[i, i] = turn[j, j] = angle.cos()
    turn[j, i], turn[i, j] = angle.sin(), -angle.sin()
    scene.drive = replace(scene.drive, bones=turn @ scene.drive.bones)
    assert_equal_results(values_and_gradients(scene, 3, "cpp"), values_and_gradients(scene, 3, "torch"), DOUBLE)


def test_gradients_equal_finite_differences():
    scene = make_scene(gaussians=3, expressions=2, frames=2, triangles=2, seed=3)
    names = ("neutral", *SHARED)
    inputs = [scene.neutral, *(getattr(scene.drive, name) for name in SHARED)]
    inputs = [t.clone().requires_grad_() for t in inputs]

    def run(neutral, *shared):
        drive = replace(scene.drive, **dict(zip(SHARED, shared, strict=True)))
        return tuple(vars(blend_pose_color(neutral, scene.differences, scene.binding, drive, 3, "cpp")).values())

    assert len(inputs) == len(names)
    # Central differences in double: truncation 1e-12, rounding 1e-10; no colour lies within 1e-6 of its clamp.
    assert torch.autograd.gradcheck(run, inputs, eps=1e-6, atol=1e-6, rtol=1e-5)


def test_factors_equal_finite_differences():
    scene = make_scene()
    old = scene.differences
    direction = torch.randn_like(old.values)

    def loss(step):
        moved = Differences(old.values + step * direction, old.offsets, old.gaussian, old.expression, old.mask)
        posed = blend_pose_color(scene.neutral, moved, scene.binding, scene.drive, 3, "cpp")
        total = sum((t * v).sum() for t, v in zip(vars(posed).values(), upstream(posed), strict=True))
        return total, moved

    with torch.no_grad():
        slope = (loss(1e-5)[0] - loss(-1e-5)[0]) / 2e-5
    total, moved = loss(0.0)
    total.backward()
    predicted = (pair_gradient_torch(moved) * direction).sum()
    assert abs(predicted / slope - 1) < 1e-7  # truncation of order step^2, rounding 1e-16 / step


def test_results_do_not_depend_on_the_number_of_threads():
    scene = cast(make_scene(gaussians=2500, triangles=50), torch.float32)  # enough for seven threads' minimum shares
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(values_and_gradients(scene, 3, "cpp"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(other[name], results[0][name]) for name in other)


def test_factors_gather_over_backward_passes_and_only_when_trainable():
    scene = make_scene()

    def backward(differences):
        posed = blend_pose_color(scene.neutral, differences, scene.binding, scene.drive, 2, "cpp")
        if posed.means.requires_grad:
            posed.colors.sum().backward()

    backward(scene.differences)
    once = pair_gradient_torch(scene.differences)
    backward(scene.differences)
    assert len(scene.differences.factors) == 2
    assert torch.allclose(pair_gradient_torch(scene.differences), 2 * once, rtol=1e-14)
    with torch.no_grad():
        backward(scene.differences)
    frozen = replace(scene.differences, trainable=False, factors=[])
    backward(frozen)
    assert len(scene.differences.factors) == 2
    assert frozen.factors == []


def test_no_gradient_where_the_colour_is_clamped():
    scene = make_scene()
    scene.neutral[:, 11:14] = -100
    got = values_and_gradients(scene, 3, "cpp")
    assert (got["colors"] == 0).all()
    assert (got["v_neutral"][:, 11:] == 0).all()


def test_a_non_finite_gaussian_harms_no_other():
    scene = make_scene()
    clean = values_and_gradients(scene, 3, "cpp")
    scene.neutral[5, :] = float("nan")
    dirty = values_and_gradients(scene, 3, "cpp")
    others = torch.arange(len(scene.neutral)) != 5
    for name in ("means", "quats", "scales", "opacities", "colors"):
        assert torch.equal(dirty[name][:, others], clean[name][:, others])
    assert torch.equal(dirty["v_neutral"][others], clean["v_neutral"][others])


def _bad_beta(scene):
    scene.drive = replace(scene.drive, beta=scene.drive.beta[:, :2])


def _bad_faces(scene):
    scene.drive = replace(scene.drive, faces=scene.drive.faces[:1], triangle_maps=scene.drive.triangle_maps[:, :1])


def _bad_vertices(scene):
    scene.drive = replace(scene.drive, pre_offsets=scene.drive.pre_offsets[:, :1])


def _bad_maps(scene):
    scene.drive = replace(scene.drive, triangle_maps=scene.drive.triangle_maps[..., :12])


def _bad_rows(scene):
    scene.neutral = scene.neutral[:, :59]


def _bad_count(scene):
    scene.differences = scene.differences.select(torch.arange(3))


def _bad_integers(scene):
    scene.neutral = scene.neutral.long()


def _bad_dtype(scene):
    scene.drive = replace(scene.drive, bones=scene.drive.bones.float())


def _asks_for_dense(scene):
    scene.differences.values.requires_grad_()


@pytest.mark.parametrize(
    "spoil, error, message",
    [
        (_bad_beta, ValueError, r"beta: wanted at least 6 expressions, got 2"),
        (_bad_faces, ValueError, r"faces: wanted at least \d triangles, got 1"),
        (_bad_vertices, ValueError, r"pre_offsets: wanted at least \d vertices, got 1"),
        (_bad_maps, ValueError, r"triangle_maps: wanted shape \[3, 9, 16\], got \[3, 9, 12\]"),
        (_bad_rows, ValueError, r"neutral: wanted shape \[23, 60\], got \[23, 59\]"),
        (_bad_count, ValueError, r"differences: wanted 23 Gaussians, got 3"),
        (_bad_integers, TypeError, r"neutral: wanted float32 or float64, got torch.int64"),
        (_bad_dtype, TypeError, r"bones: wanted torch.float64, got torch.float32"),
        (_asks_for_dense, ValueError, r"values: backend 'cpp' leaves factors instead of a dense gradient"),
    ],
)
def test_bad_arguments(spoil, error, message):
    scene = make_scene()
    spoil(scene)
    with pytest.raises(error, match=message):
        blend_pose_color(scene.neutral, scene.differences, scene.binding, scene.drive, 3, "cpp")


def test_bad_degree_and_backend():
    scene = make_scene()
    arguments = (scene.neutral, scene.differences, scene.binding, scene.drive)
    with pytest.raises(ValueError, match=r"sh_degree: wanted 0\.\.3, got 4"):
        blend_pose_color(*arguments, 4)
    with pytest.raises(ValueError, match="backend: wanted one of auto, torch, cpp, cuda, got 'gpu'"):
        blend_pose_color(*arguments, 3, "gpu")
    with pytest.raises(ValueError, match="backend: 'cuda' does not work on tensors on cpu"):
        blend_pose_color(*arguments, 3, "cuda")


def test_tensors_on_two_devices():
    scene = make_scene()
    scene.drive = replace(scene.drive, beta=scene.drive.beta.to("meta"))
    with pytest.raises(ValueError, match=r"beta: wanted device cpu \(that of neutral\), got meta"):
        blend_pose_color(scene.neutral, scene.differences, scene.binding, scene.drive, 3)


def test_auto_gives_dense_gradients_where_they_are_asked_for():
    scene = make_scene()
    scene.differences.values.requires_grad_()
    posed = blend_pose_color(scene.neutral, scene.differences, scene.binding, scene.drive, 3)
    posed.means.sum().backward()
    assert scene.differences.values.grad is not None
    assert scene.differences.factors == []


def test_bad_binding():
    with pytest.raises(ValueError, match="triangle: wanted indices from 0 or -1 for none, got a smaller one"):
        Binding(torch.tensor([-2]).int(), torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"weights: wanted shape \[1, any\], got \[2, 1\]"):
        Binding(torch.tensor([0]).int(), torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(2, 1))
    with pytest.raises(TypeError, match=r"triangle: wanted torch.int32, got torch.int64"):
        Binding(torch.tensor([0]), torch.zeros(1, 3), torch.zeros(1, 3), torch.ones(1, 1))
    with pytest.raises(TypeError, match="anchor: wanted a tensor, got list"):
        Binding(torch.tensor([0]).int(), [[0, 0, 0]], torch.zeros(1, 3), torch.ones(1, 1))  # type: ignore[arg-type]
