"""The definition of `blend_pose_color` in plain torch: any floating dtype, any device, dense autograd gradients."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .tables import GEOMETRY, LOG_SCALES, MEANS, OPACITY, QUATS, SH, Binding, Differences, Drive, Posed

# Real spherical harmonics up to degree 3 with the signs of 3D Gaussian Splatting (odd orders carry a minus).
SH_C0 = 0.28209479177387814
_C1 = 0.4886025119029199
_C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
_C3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)


def quaternion_product(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of (w, x, y, z) quaternions [..., 4]."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] to unit quaternions (w, x, y, z) [..., 4] whose largest component is positive.

    Of the four formulas, the one whose divisor is largest is used: that divisor is at least 1, so nothing is lost
    near half turns. Near-rotations give near-unit quaternions (no normalisation follows).
    """
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrix.flatten(-2).unbind(-1)
    xy, xz, yz = m10 + m01, m02 + m20, m21 + m12
    wx, wy, wz = m21 - m12, m02 - m20, m10 - m01
    squares = torch.stack([1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22], -1)
    numerators = torch.stack(
        [
            torch.stack([squares[..., 0], wx, wy, wz], -1),
            torch.stack([wx, squares[..., 1], xy, xz], -1),
            torch.stack([wy, xy, squares[..., 2], yz], -1),
            torch.stack([wz, xz, yz, squares[..., 3]], -1),
        ],
        dim=-2,
    )
    # The largest square is at least 1 for a rotation; the floor keeps the gradients of the branches not taken finite.
    candidates = numerators / (2 * squares.clamp_min(0.1).sqrt()).unsqueeze(-1)
    best = squares.argmax(-1, keepdim=True).unsqueeze(-1).expand(*squares.shape[:-1], 1, 4)
    return candidates.gather(-2, best).squeeze(-2)


def inverse_transpose(matrix: Tensor) -> Tensor:
    """X^-T of [..., 3, 3] by cofactors over the determinant."""
    r0, r1, r2 = matrix.unbind(-2)
    cofactors = torch.stack([torch.linalg.cross(r1, r2), torch.linalg.cross(r2, r0), torch.linalg.cross(r0, r1)], -2)
    determinant = (r0 * cofactors[..., 0, :]).sum(-1)
    return cofactors / determinant[..., None, None]


def polar3(matrix: Tensor) -> Tensor:
    """Nearest rotation to [..., 3, 3] by three Newton steps X <- (X + X^-T) / 2 (Higham 1986).

    Converges quadratically: a blend 5 % away from a rotation is orthogonal to 2e-7 after the three steps.
    """
    for _ in range(3):
        matrix = 0.5 * (matrix + inverse_transpose(matrix))
    return matrix


def sh_basis(directions: Tensor, sh_degree: int) -> Tensor:
    """Y_j of unit `directions` [..., 3], j below (sh_degree + 1)^2: [..., (sh_degree + 1)^2]."""
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, SH_C0)]
    if sh_degree >= 1:
        terms += [-_C1 * y, _C1 * z, -_C1 * x]
    if sh_degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        terms += [_C2[0] * x * y, -_C2[0] * y * z, _C2[1] * (2 * zz - xx - yy), -_C2[0] * x * z, _C2[2] * (xx - yy)]
    if sh_degree >= 3:
        terms += [
            -_C3[0] * y * (3 * xx - yy),
            _C3[1] * x * y * z,
            -_C3[2] * y * (4 * zz - xx - yy),
            _C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            -_C3[2] * x * (4 * zz - xx - yy),
            _C3[4] * z * (xx - yy),
            -_C3[0] * x * (xx - 3 * yy),
        ]
    return torch.stack(terms, -1)


def evaluate_sh(sh: Tensor, directions: Tensor, sh_degree: int) -> Tensor:
    """Colours [..., 3] = max(0, 0.5 + sum_j sh_j Y_j(direction)) of sh [..., 16, 3] and unit directions [..., 3]."""
    basis = sh_basis(directions, sh_degree)
    return torch.relu(0.5 + (basis.unsqueeze(-1) * sh[..., : basis.shape[-1], :]).sum(-2))


def blend(neutral: Tensor, differences: Differences, beta: Tensor) -> Tensor:
    """neutral[n] + sum over the pairs (n, k) of mask beta[b, k] values: [B, N, 60]."""
    gaussian = differences.gaussian.long()
    coefficients = beta[:, differences.expression.long()] * differences.mask
    rows = [neutral.index_add(0, gaussian, c[:, None] * differences.values) for c in coefficients]
    return torch.stack(rows) if rows else neutral[None][:0]


def surface_motion(binding: Binding, triangle_maps: Tensor) -> tuple[Tensor, Tensor]:
    """(A x0 + c [B, N, 3], dq [B, N, 4]) of each Gaussian's triangle; zero where it has none."""
    maps = _gather_or_zero(triangle_maps, binding.triangle)
    matrix, shift, turn = maps[..., :9].unflatten(-1, (3, 3)), maps[..., 9:12], maps[..., 12:]
    return (matrix @ binding.anchor.unsqueeze(-1)).squeeze(-1) + shift, turn


def surface_offset(binding: Binding, faces: Tensor, offsets: Tensor) -> Tensor:
    """Barycentric mean [B, N, 3] of the vertex offsets [B, V, 3] at each Gaussian's triangle; zero where none."""
    corners = offsets[:, faces.long()]  # [B, F, 3 corners, 3]
    return (_gather_or_zero(corners, binding.triangle) * binding.barycentric.unsqueeze(-1)).sum(-2)


def _gather_or_zero(table: Tensor, triangle: Tensor) -> Tensor:
    """table[:, triangle], with zeros where triangle is -1."""
    if table.shape[1] == 0:
        return table.new_zeros(table.shape[0], triangle.numel(), *table.shape[2:])
    rows = table[:, triangle.clamp_min(0).long()]
    bound = (triangle >= 0).view(1, -1, *[1] * (rows.ndim - 2))
    return torch.where(bound, rows, rows.new_zeros(()))


def blend_pose_color_torch(
    neutral: Tensor, differences: Differences, binding: Binding, drive: Drive, sh_degree: int
) -> Posed:
    """The definition; see `blend_pose_color`. Steps are numbered as in docs/architecture.md."""
    raw = blend(neutral, differences, drive.beta)
    shift, turn = surface_motion(binding, drive.triangle_maps)
    x = raw[..., MEANS] + shift
    q = F.normalize(raw[..., QUATS] + turn, dim=-1)
    if drive.pre_offsets is not None:
        x = x + surface_offset(binding, drive.faces, drive.pre_offsets)
    bones = torch.einsum("nj,bjrc->bnrc", binding.weights, drive.bones)
    y = (bones[..., :3] @ x.unsqueeze(-1)).squeeze(-1) + bones[..., 3]
    if drive.post_offsets is not None:
        y = y + surface_offset(binding, drive.faces, drive.post_offsets)
    rotation = polar3(bones[..., :3])
    view = F.normalize(y - drive.camera_centers[:, None], dim=-1)
    local_view = (rotation.transpose(-1, -2) @ view.unsqueeze(-1)).squeeze(-1)
    return Posed(
        means=y,
        quats=quaternion_product(matrix_to_quaternion(rotation), q),
        scales=raw[..., LOG_SCALES].exp(),
        opacities=raw[..., OPACITY].sigmoid().squeeze(-1),
        colors=evaluate_sh(raw[..., SH].unflatten(-1, (16, 3)), local_view, sh_degree),
    )


def pair_gradient_torch(differences: Differences) -> Tensor:
    """The gradient [P, 60] that `differences.factors` stand for (see `Factors`), summed over them."""
    gradient = torch.zeros_like(differences.values)
    gaussian, expression = differences.gaussian.long(), differences.expression.long()
    for factor in differences.factors:
        basis = sh_basis(factor.directions, factor.sh_degree)
        v_sh = (basis.unsqueeze(-1) * factor.v_rgb.unsqueeze(-2)).flatten(-2)
        coefficients = factor.beta[:, expression] * differences.mask
        for coefficient, v_geometry, v_colour in zip(coefficients, factor.v_geometry, v_sh, strict=True):
            gradient[:, GEOMETRY] += coefficient[:, None] * v_geometry[gaussian]
            gradient[:, SH.start : SH.start + v_colour.shape[-1]] += coefficient[:, None] * v_colour[gaussian]
    return gradient
