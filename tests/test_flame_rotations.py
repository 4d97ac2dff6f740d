"""Laws of rotations and rigid motions, in both precisions, near the identity and far from it."""

from __future__ import annotations

import math

import pytest
import torch

from flame import rotations as rot

# A few roundings of numbers of order one; worst case over these draws: 8.3e-7 (float32), 1.3e-15 (float64).
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-14}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
SHAPES = pytest.mark.parametrize("shape", [(), (7,), (2, 0), (3, 5)], ids=str)


def vectors(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return scale * torch.randn(*shape, 3, generator=generator, dtype=torch.float64).to(dtype)


def hard_vectors(dtype: torch.dtype) -> torch.Tensor:
    """Rotation vectors of angle 0, tiny, ordinary, and next to pi about each axis and an oblique one."""
    axes = torch.cat([torch.eye(3), -torch.eye(3), torch.tensor([[0.6, 0.0, -0.8], [0.48, 0.6, 0.64]])]).double()
    angles = torch.tensor([0.0, 1e-9, 1e-5, 1e-3, 0.3, 1.5, 3.0, math.pi - 1e-3]).double()
    return (angles[:, None, None] * axes).reshape(-1, 3).to(dtype)


def close(actual: torch.Tensor, expected: torch.Tensor, factor: float = 1.0) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=factor * TOLERANCE[actual.dtype])


def is_rotation(matrix: torch.Tensor, factor: float = 1.0) -> None:
    close(matrix @ matrix.mT, torch.eye(3, dtype=matrix.dtype).expand_as(matrix), factor)
    close(torch.linalg.det(matrix), torch.ones(matrix.shape[:-2], dtype=matrix.dtype), factor)


@DTYPES
@SHAPES
def test_every_parametrisation_gives_rotations_and_keeps_shape_and_dtype(shape, dtype):
    vector = vectors(shape, dtype)
    six = torch.cat([vector, vector.roll(1, -1) + 0.3], dim=-1)
    quat = torch.cat([vector, vector[..., :1] + 2], dim=-1)
    for matrix in (rot.matrix_from_6d(six), rot.matrix_from_axis_angle(vector), rot.matrix_from_quat(quat)):
        assert matrix.shape == (*shape, 3, 3)
        assert matrix.dtype == dtype
        is_rotation(matrix)


@DTYPES
def test_round_trips(dtype):
    vector = hard_vectors(dtype)
    matrix = rot.matrix_from_axis_angle(vector)
    close(rot.matrix_from_6d(rot.matrix_to_6d(matrix)), matrix)
    close(rot.matrix_from_quat(rot.quat_from_matrix(matrix)), matrix)
    # the vector's length is up to pi, and the angle is twice an arctangent
    close(rot.matrix_to_axis_angle(matrix), vector, factor=10)


@DTYPES
def test_quaternions_are_unit_and_their_product_is_the_matrix_product(dtype):
    matrix = rot.matrix_from_axis_angle(hard_vectors(dtype))
    quat = rot.quat_from_matrix(matrix)
    close(quat.norm(dim=-1), torch.ones(len(quat), dtype=dtype))
    product = rot.quat_multiply(quat, quat.flip(0))
    close(rot.matrix_from_quat(product), matrix @ matrix.flip(0))
    close(rot.quat_from_matrix(torch.eye(3, dtype=dtype)), torch.tensor([1.0, 0, 0, 0], dtype=dtype))


def test_conventions():
    """A quarter turn about z takes x to y; the 6D form is rows; quaternions begin with the real part."""
    quarter = rot.matrix_from_axis_angle(torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64))
    close(quarter @ torch.tensor([1.0, 0, 0]).double(), torch.tensor([0.0, 1, 0]).double())
    close(rot.matrix_to_6d(quarter), torch.tensor([0.0, -1, 0, 1, 0, 0]).double())
    half = math.sqrt(0.5)
    close(rot.quat_from_matrix(quarter), torch.tensor([half, 0, 0, half], dtype=torch.float64))
    close(rot.skew(torch.tensor([1.0, 2, 3])) @ torch.tensor([4.0, 5, 6]), torch.tensor([-3.0, 6, -3]))


def test_6d_ignores_length_and_shear():
    matrix = rot.matrix_from_axis_angle(vectors((20,), torch.float64))
    six = torch.cat([3 * matrix[:, 0], 0.2 * matrix[:, 1] - 5 * matrix[:, 0]], dim=-1)
    close(rot.matrix_from_6d(six), matrix, factor=30)  # the shear of 25 costs that factor


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-3, 0.099, 0.101, 1.0])
def test_axis_angle_gradients_are_exact_down_to_zero(scale):
    vector = vectors((3,), torch.float64, scale).requires_grad_()
    assert torch.autograd.gradcheck(rot.matrix_from_axis_angle, vector)
    if 0 < scale < 1:
        assert torch.autograd.gradcheck(lambda v: rot.matrix_to_axis_angle(rot.matrix_from_axis_angle(v)), vector)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.01, 1.0])
def test_cayley_turns_about_its_vector_by_nearly_its_length(scale):
    vector = vectors((3,), torch.float64, scale)
    turned = rot.matrix_to_axis_angle(rot.matrix_from_cayley(vector))
    length = vector.norm(dim=-1, keepdim=True)
    wanted = vector * (2 * torch.atan(length / 2) / length if scale else 1.0)
    assert torch.allclose(turned, wanted, atol=1e-12)
    assert torch.autograd.gradcheck(rot.matrix_from_cayley, vector.requires_grad_())


def test_other_gradients():
    six = torch.cat([vectors((3,), torch.float64), vectors((3,), torch.float64).roll(1, -1)], -1).requires_grad_()
    assert torch.autograd.gradcheck(rot.matrix_from_6d, six)
    near = torch.eye(3).double() + 0.05 * torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    assert torch.autograd.gradcheck(rot.polar3, near.requires_grad_())


@DTYPES
def test_polar3_finds_the_nearest_rotation(dtype):
    """R S with stretches within 5 %: three steps leave 2e-7 (reference-method 2.4); exact rotations stay."""
    rotation = rot.matrix_from_axis_angle(vectors((50,), dtype))
    generator = torch.Generator().manual_seed(1)
    shear = 0.03 * torch.randn(50, 3, 3, generator=generator, dtype=torch.float64).to(dtype)
    stretch = torch.eye(3, dtype=dtype) + 0.5 * (shear + shear.mT)
    torch.testing.assert_close(rot.polar3(rotation @ stretch), rotation, rtol=0, atol=2e-6)
    close(rot.polar3(rotation), rotation)


def motion(dtype: torch.dtype, count: int = 6) -> torch.Tensor:
    rotation = rot.matrix_from_axis_angle(vectors((count,), dtype))
    return torch.cat([rotation, vectors((count, 1), dtype).mT], dim=-1)


def moved(transform: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    return points @ transform[..., :3].mT + transform[..., 3][..., None, :]


@DTYPES
def test_rigid_align_recovers_motions_also_of_flat_sets(dtype):
    transform = motion(dtype)
    points = vectors((20,), dtype)
    close(rot.rigid_align(points, moved(transform, points)), transform, factor=3)
    flat = points * torch.tensor([1.0, 0.7, 0.0], dtype=dtype)
    found = rot.rigid_align(flat, moved(transform, flat))
    is_rotation(found[..., :3], factor=2)
    close(found, transform, factor=10)


def test_rigid_align_never_reflects():
    points = vectors((30,), torch.float64)
    found = rot.rigid_align(points, points * torch.tensor([-1.0, 1.0, 1.0]))
    is_rotation(found[..., :3])


def test_rigid_align_weights_count_like_repeated_points():
    source, target = vectors((8,), torch.float64), vectors((8,), torch.float64).flip(0)
    repeats = torch.tensor([1, 2, 3, 1, 1, 4, 1, 2])
    ids = torch.repeat_interleave(torch.arange(8), repeats)
    close(rot.rigid_align(source, target, repeats), rot.rigid_align(source[ids], target[ids]))


def test_rigid_align_gradients_match_finite_differences():
    """Also for the points of a cube, whose moments have three equal singular values (an SVD's gradient is NaN)."""
    cube = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)]).double()
    cloud = vectors((6,), torch.float64)
    for points in (cloud, cube):
        target = moved(motion(torch.float64, 2), points).detach()
        if points is cloud:
            target = target + 0.3 * vectors((2, 6), torch.float64)
        assert torch.autograd.gradcheck(
            rot.rigid_align, (points.clone().requires_grad_(), target.clone().requires_grad_()), atol=1e-6
        )


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"six: wanted \[\.\.\., 6\], got \[2, 3\]"):
        rot.matrix_from_6d(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"matrix: wanted \[\.\.\., 3, 3\], got \[4\]"):
        rot.quat_from_matrix(torch.zeros(4))
    with pytest.raises(ValueError, match="source has 4 points, target 5"):
        rot.rigid_align(torch.zeros(4, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="at least 3 points are needed, got 2"):
        rot.rigid_align(torch.zeros(2, 3), torch.zeros(2, 3))
