"""Laws that the posing and colouring obey, the small functions of the definition, and the packed tables."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from blendshape_ops import (
    Differences,
    HalfDifferences,
    blend_pose_color,
    evaluate_sh,
    matrix_to_quaternion,
    polar3,
    quaternion_product,
    sh_basis,
)
from blendshape_ops.tables import PIECE

from tests.blendshape_ops_scene import make_scene

BACKENDS = ["torch", "cpp"]


def random_rotation(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(*shape, 3, 3, dtype=torch.float64, generator=generator))
    q = q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return q * torch.linalg.det(q)[..., None, None]


def quaternion_to_matrix(q: torch.Tensor) -> torch.Tensor:
    """Columns are the images of the axes, v -> q v q*."""
    axes = torch.cat([torch.zeros(3, 1, dtype=q.dtype), torch.eye(3, dtype=q.dtype)], 1)
    conjugate = q * torch.tensor([1, -1, -1, -1], dtype=q.dtype)
    return torch.stack(
        [quaternion_product(quaternion_product(q, a.expand_as(q)), conjugate)[..., 1:] for a in axes], -1
    )


def run(scene, backend, sh_degree=3):
    return blend_pose_color(scene.neutral, scene.differences, scene.binding, scene.drive, sh_degree, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_codes_give_the_neutral_set(backend):
    scene = make_scene()
    scene.drive = replace(scene.drive, beta=torch.zeros_like(scene.drive.beta))
    blended = run(scene, backend)
    scene.differences = Differences.from_mask(torch.zeros(23, 6, dtype=torch.float64))
    for got, wanted in zip(vars(blended).values(), vars(run(scene, backend)).values(), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_everything_still_gives_the_parameters(backend):
    scene = make_scene()
    zeros = {name: torch.zeros_like(getattr(scene.drive, name)) for name in ("beta", "triangle_maps")}
    bones = torch.eye(3, 4, dtype=torch.float64).expand_as(scene.drive.bones)
    scene.drive = replace(scene.drive, bones=bones, pre_offsets=None, post_offsets=None, **zeros)
    posed, raw = run(scene, backend), scene.neutral
    view = raw[:, :3] - scene.drive.camera_centers[:, None]
    colors = evaluate_sh(raw[:, 11:59].view(-1, 16, 3), view / view.norm(dim=-1, keepdim=True), 3)
    wanted = (
        raw[:, :3],
        raw[:, 3:7] / raw[:, 3:7].norm(dim=1, keepdim=True),
        raw[:, 7:10].exp(),
        raw[:, 10].sigmoid(),
        colors,
    )
    for got, expected in zip(vars(posed).values(), wanted, strict=True):
        assert torch.allclose(got, expected.expand_as(got), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_turning_head_and_camera_together_leaves_colours(backend):
    scene = make_scene()
    before = run(scene, backend)
    assert scene.drive.post_offsets is not None
    turn, shift = random_rotation(seed=1), torch.tensor([0.3, -2.0, 0.7], dtype=torch.float64)
    bones = turn @ scene.drive.bones
    bones[..., 3] += shift
    scene.drive = replace(
        scene.drive,
        bones=bones,
        camera_centers=scene.drive.camera_centers @ turn.T + shift,
        post_offsets=scene.drive.post_offsets @ turn.T,
    )
    after = run(scene, backend)
    assert torch.allclose(after.colors, before.colors, atol=1e-11)
    assert torch.allclose(after.means, before.means @ turn.T + shift, atol=1e-12)
    moved, expected = quaternion_to_matrix(after.quats), turn @ quaternion_to_matrix(before.quats)
    assert torch.allclose(moved, expected, atol=1e-6)  # the polar factor is orthogonal to 2e-7 (three Newton steps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_turned_head_shows_the_side_that_faces_the_camera(backend):
    """Rotating by R equals looking from R^T of the camera: no rotation of the harmonics is needed."""
    scene = make_scene()
    still = replace(scene.drive, pre_offsets=None, post_offsets=None)
    turn = random_rotation(seed=2)
    identity = torch.eye(3, 4, dtype=torch.float64).expand_as(still.bones)
    scene.drive = replace(still, bones=identity, camera_centers=still.camera_centers @ turn)
    wanted = run(scene, backend).colors
    scene.drive = replace(still, bones=turn @ identity)
    assert torch.allclose(run(scene, backend).colors, wanted, atol=1e-12)


@pytest.mark.parametrize("sh_degree", range(4))
@pytest.mark.parametrize("backend", BACKENDS)
def test_bands_above_the_degree_do_not_count(backend, sh_degree):
    scene = make_scene()
    before = run(scene, backend, sh_degree).colors
    scene.neutral[:, 11 + 3 * (sh_degree + 1) ** 2 : 59] += 1
    assert torch.equal(run(scene, backend, sh_degree).colors, before)


def test_sh_basis_is_the_real_basis_with_condon_shortley_phase():
    scipy_special = pytest.importorskip("scipy.special")
    directions = random_rotation(50)[:, 0]
    theta, phi = directions[:, 2].acos().numpy(), torch.atan2(directions[:, 1], directions[:, 0]).numpy()
    got = sh_basis(directions, 3)
    for band in range(4):
        for order in range(-band, band + 1):
            value = scipy_special.sph_harm_y(band, abs(order), theta, phi)
            real = value.real if order >= 0 else value.imag
            wanted = torch.from_numpy(real * (1 if order == 0 else math.sqrt(2)))
            assert torch.allclose(got[:, band * (band + 1) + order], wanted, atol=1e-12), (band, order)


def test_matrix_to_quaternion_inverts_everywhere():
    rotations = random_rotation(200)
    half_turns = torch.diag_embed(torch.tensor([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]]).double())
    rotations = torch.cat([rotations, half_turns])
    quaternions = matrix_to_quaternion(rotations)
    assert torch.allclose(quaternion_to_matrix(quaternions), rotations, atol=1e-14)
    assert (quaternions.abs().max(-1).values == quaternions.max(-1).values).all()


def test_quaternion_product_composes_rotations():
    a, b = random_rotation(20, seed=3), random_rotation(20, seed=4)
    product = quaternion_product(matrix_to_quaternion(a), matrix_to_quaternion(b))
    assert torch.allclose(quaternion_to_matrix(product), a @ b, atol=1e-14)


def test_polar3_is_the_nearest_rotation():
    generator = torch.Generator().manual_seed(5)
    near = random_rotation(100) + 0.02 * torch.randn(100, 3, 3, dtype=torch.float64, generator=generator)
    u, _, vh = torch.linalg.svd(near)
    # Newton converges quadratically: 5 % after one step 1e-3, then 1e-6, then below 1e-11.
    assert torch.allclose(polar3(near), u @ vh, atol=1e-9)
    leaf = near[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: matrix_to_quaternion(polar3(m)), leaf)


def test_from_mask_keeps_positive_entries_sorted():
    mask = torch.tensor([[0.0, 2.0, 0.5], [0.0, 0.0, 0.0], [1.0, -1.0, 0.0]])
    differences = Differences.from_mask(mask)
    assert differences.gaussian.tolist() == [0, 0, 2]
    assert differences.expression.tolist() == [1, 2, 0]
    assert differences.mask.tolist() == [2.0, 0.5, 1.0]
    assert differences.offsets.tolist() == [0, 2, 2, 3]
    assert differences.values.shape == (3, 60)
    assert differences.num_expressions_used == 3


def test_indices_that_are_written_to_are_read_anew():
    """What was read of them once is kept, and would let native code follow what came later out of its tables."""
    scene = make_scene()
    used, pieces = scene.differences.num_expressions_used, scene.binding.triangle_pieces
    blend_pose_color(scene.neutral, scene.differences, scene.binding, scene.drive, 3)
    scene.differences.expression[0] = 10_000
    with pytest.raises(ValueError, match=r"beta: wanted .*10001"):
        blend_pose_color(scene.neutral, scene.differences, scene.binding, scene.drive, 3)
    assert (used, scene.differences.num_expressions_used) == (scene.drive.beta.shape[1], 10_001)
    again = make_scene().binding
    again.triangle.copy_(scene.binding.triangle.flip(0))
    scene.binding.triangle.copy_(again.triangle)
    assert not torch.equal(scene.binding.triangle_pieces[0], pieces[0])
    assert torch.equal(scene.binding.triangle_pieces[0], again.triangle_pieces[0])


def test_select_follows_gaussians():
    scene = make_scene()
    index = torch.tensor([4, 0, 4, 22, 1])
    chosen = scene.differences.select(index)
    assert torch.equal(chosen.dense(6), scene.differences.dense(6)[index])
    chosen.values += 1
    assert not torch.equal(chosen.dense(6), scene.differences.dense(6)[index])  # a copy
    assert scene.differences.select(torch.arange(0)).values.shape == (0, 60)
    selected = scene.binding.select(index)
    assert torch.equal(selected.weights, scene.binding.weights[index])
    assert torch.equal(scene.binding.to("cpu").triangle, scene.binding.triangle)
    assert torch.equal(scene.differences.to("cpu").dense(6), scene.differences.dense(6))


@pytest.mark.parametrize("triangles", [0, 1, 2, 40])
@pytest.mark.parametrize("gaussians", [0, 1, 128, 129, 700])
def test_triangle_pieces_hold_every_bound_gaussian_once(gaussians, triangles):
    binding = make_scene(gaussians=gaussians, triangles=triangles).binding
    order, bounds = binding.triangle_pieces
    pieces = [order[begin:end] for begin, end in itertools.pairwise(bounds.tolist())]
    assert sorted(torch.cat([order[:0], *pieces]).tolist()) == torch.nonzero(binding.triangle >= 0)[:, 0].tolist()
    assert all(len(piece) <= PIECE and len(binding.triangle[piece.long()].unique()) <= 1 for piece in pieces)


def test_bad_tables():
    scene = make_scene()
    good = scene.differences
    with pytest.raises(ValueError, match="num_expressions: wanted at least 6, got 5"):
        good.dense(5)
    with pytest.raises(TypeError, match="mask: wanted a floating type, got torch.int64"):
        Differences.from_mask(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"offsets: wanted \[N \+ 1\] counts of pairs sorted by gaussian"):
        Differences(good.values, good.offsets, good.gaussian.flip(0), good.expression, good.mask)
    with pytest.raises(ValueError, match="expression: wanted indices from 0, got a negative one"):
        Differences(good.values, good.offsets, good.gaussian, good.expression - 9, good.mask)


@pytest.mark.parametrize("place", ["faces", "pre_offsets", "offsets"])
def test_indices_that_native_code_would_follow_out_of_bounds_are_refused(place: str) -> None:
    scene = make_scene()
    faces = scene.drive.faces.clone()
    blend_pose_color(scene.neutral, scene.differences, scene.binding, scene.drive, 3)  # what was looked at is kept
    scene.drive.faces[2, 1] = {"faces": -1, "pre_offsets": 8, "offsets": int(faces[2, 1])}[place]
    if place == "offsets":
        offsets = scene.differences.offsets.clone()
        offsets[0] = -3
        with pytest.raises(ValueError, match="offsets: wanted"):
            replace(scene.differences, offsets=offsets)
        return
    message = {"faces": "faces: wanted vertices from 0, got -1",
               "pre_offsets": "pre_offsets: wanted at least 9 vertices, got 8"}[place]
    with pytest.raises(ValueError, match=message):
        blend_pose_color(scene.neutral, scene.differences, scene.binding, scene.drive, 3)


@pytest.mark.parametrize(("change", "message"), [
    ({"offsets": torch.tensor([1, 1], dtype=torch.int32)}, "offsets: wanted numbers that rise from 0 to 1"),
    ({"offsets": torch.tensor([0, 2], dtype=torch.int32)}, "offsets: wanted numbers that rise from 0 to 1"),
    ({"expression": torch.tensor([-1], dtype=torch.int32)}, "expression: wanted 0 to 2, got -1 to -1"),
    ({"expression": torch.tensor([3], dtype=torch.int32)}, "expression: wanted 0 to 2, got 3 to 3"),
])
def test_half_differences_refuse_indices_out_of_bounds(change: dict, message: str) -> None:
    good = HalfDifferences(torch.zeros(1, 64, dtype=torch.float16), torch.ones(64),
                           torch.tensor([0, 1], dtype=torch.int32), torch.tensor([2], dtype=torch.int32), 3)
    with pytest.raises(ValueError, match=message):
        replace(good, **change)
