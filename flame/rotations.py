"""Rotations and rigid motions, batched, in torch. Every function keeps dtype and device and is differentiable.

Conventions: matrices act on column vectors; quaternions are (w, x, y, z), Hamilton, unit; a 6D rotation is the first
two ROWS of the matrix; an axis-angle vector's length is the angle in radians. Leading dimensions are free (`...`).
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-12  # keeps a division by a vanishing length finite; far below any length that carries a direction


def matrix_from_6d(six: Tensor) -> Tensor:
    """Gram-Schmidt on two rows: [..., 6] -> rotation matrices [..., 3, 3] (Zhou et al. 2019, rows instead of columns).

    Raises ValueError when the last dimension is not 6. Two zero or parallel rows give no rotation (not checked).
    """
    _check_last(six, (6,), "six")
    first, second = six[..., :3], six[..., 3:]
    row0 = first / first.norm(dim=-1, keepdim=True).clamp_min(_TINY)
    second = second - (row0 * second).sum(-1, keepdim=True) * row0
    row1 = second / second.norm(dim=-1, keepdim=True).clamp_min(_TINY)
    return torch.stack([row0, row1, torch.linalg.cross(row0, row1)], dim=-2)


def matrix_to_6d(matrix: Tensor) -> Tensor:
    """First two rows: [..., 3, 3] -> [..., 6]."""
    _check_last(matrix, (3, 3), "matrix")
    return matrix[..., :2, :].reshape(*matrix.shape[:-2], 6)


def skew(vector: Tensor) -> Tensor:
    """[..., 3] -> [..., 3, 3] with skew(v) @ u = v x u."""
    _check_last(vector, (3,), "vector")
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*vector.shape[:-1], 3, 3)


def matrix_from_axis_angle(vector: Tensor) -> Tensor:
    """Rodrigues' formula: rotation vectors [..., 3] in radians -> [..., 3, 3]; exact and differentiable at zero."""
    _check_last(vector, (3,), "vector")
    squared = (vector * vector).sum(-1)[..., None, None]
    # sinc-like factors by Taylor below 1e-2 rad, where cancellation and 0/0 would hurt; next terms are < 1e-18
    small = squared < 1e-4
    safe = torch.where(small, torch.ones_like(squared), squared)
    angle = safe.sqrt()
    sine = torch.where(small, 1 - squared / 6 + squared**2 / 120 - squared**3 / 5040, torch.sin(angle) / angle)
    # (1 - cos a) / a^2 = 2 sin^2(a/2) / a^2 does not cancel
    cosine = torch.where(
        small, 0.5 - squared / 24 + squared**2 / 720 - squared**3 / 40320, 2 * torch.sin(angle / 2) ** 2 / safe
    )
    cross = skew(vector)
    return torch.eye(3, dtype=vector.dtype, device=vector.device) + sine * cross + cosine * (cross @ cross)


def matrix_from_cayley(vector: Tensor) -> Tensor:
    """Cayley's map: vectors v [..., 3] -> rotations about v by 2 atan(|v| / 2), which is |v| up to |v|^3 / 12.

    Smooth everywhere and a third of the operations of `matrix_from_axis_angle`; for small turns that are learnt.
    """
    _check_last(vector, (3,), "vector")
    identity = torch.eye(3, dtype=vector.dtype, device=vector.device)
    cross = torch.linalg.cross(identity.expand(*vector.shape[:-1], 3, 3), vector[..., None, :])  # skew(v), by its rows
    factor = 1 / (1 + 0.25 * (vector * vector).sum(-1)[..., None, None])
    return identity + factor * (cross + 0.5 * (cross @ cross))


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] -> rotation vectors [..., 3], length in [0, pi]."""
    quat = quat_from_matrix(matrix)
    quat = torch.where(quat[..., :1] < 0, -quat, quat)
    squared = (quat[..., 1:] ** 2).sum(-1, keepdim=True)
    # 2 atan2(|v|, w) / |v| -> 2 / w for a small vector part; the next relative term is |v|^2 / 3 < 1e-12
    small = squared < 1e-12
    length = torch.where(small, torch.ones_like(squared), squared).sqrt()
    factor = torch.where(small, 2 / quat[..., :1].clamp_min(0.5), 2 * torch.atan2(length, quat[..., :1]) / length)
    return factor * quat[..., 1:]


def turn_and_place(R: Tensor, t: Tensor, facing: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """How a head stands before cameras R [T,3,3], t [T,3], float64 [T,3] each.

    Its turn against `facing` [3,3] as a rotation vector in the camera's axes, and where its `center` [3] is (metres).
    `facing` and `center`: float64.
    """
    return matrix_to_axis_angle(R.double() @ facing.T), R.double() @ center + t.double()


def matrix_from_quat(quat: Tensor) -> Tensor:
    """Quaternions [..., 4] (w, x, y, z), of any non-zero length, -> [..., 3, 3]."""
    _check_last(quat, (4,), "quat")
    w, x, y, z = (quat / quat.norm(dim=-1, keepdim=True).clamp_min(_TINY)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(*quat.shape[:-1], 3, 3)


def quat_from_matrix(matrix: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] -> unit quaternions [..., 4] whose largest component is positive.

    All four products q_i * q are linear in the matrix; the row with the largest q_i (at least 1/2) is normalised, so
    no division by a small number occurs and a slightly non-orthogonal matrix still gives a unit quaternion.
    """
    _check_last(matrix, (3, 3), "matrix")
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrix.reshape(*matrix.shape[:-2], 9).unbind(-1)
    rows = torch.stack([
        torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
        torch.stack([m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20], -1),
        torch.stack([m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m12 + m21], -1),
        torch.stack([m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22], -1),
    ], dim=-2)  # fmt: skip
    largest = torch.diagonal(rows, dim1=-2, dim2=-1).argmax(-1)
    chosen = torch.take_along_dim(rows, largest[..., None, None], dim=-2).squeeze(-2)
    return chosen / chosen.norm(dim=-1, keepdim=True).clamp_min(_TINY)


def quat_multiply(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton product [..., 4] x [..., 4] -> [..., 4]: matrix(left) @ matrix(right) for unit quaternions."""
    _check_last(left, (4,), "left")
    _check_last(right, (4,), "right")
    aw, ax, ay, az = left.unbind(-1)
    bw, bx, by, bz = right.unbind(-1)
    parts = [
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ]
    return torch.stack(parts, dim=-1)


def polar3(matrix: Tensor, steps: int = 3) -> Tensor:
    """Rotation part of near-rotations [..., 3, 3] by Newton's iteration X <- (X + X^-T) / 2 (Higham 1986).

    Three steps leave about 2e-7 of non-orthogonality for stretches of 5 %; more is needed for larger ones. The inverse
    is the adjugate over the determinant; a singular matrix gives infinities.
    """
    _check_last(matrix, (3, 3), "matrix")
    for _ in range(steps):
        a, b, c = matrix.unbind(-2)
        # rows of X^-T are the cross products of X's rows over det X
        cofactors = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=-2)
        determinant = (a * cofactors[..., 0, :]).sum(-1)[..., None, None]
        matrix = 0.5 * (matrix + cofactors / determinant)
    return matrix


def rigid_align(source: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Best rigid motion source -> target in the weighted least-squares sense (Kabsch 1976).

    source, target: [..., N, 3] (broadcast against each other); weights: [N] or [..., N], not negative, or None for
    equal ones. Returns [R | t] as [..., 3, 4] with R source + t = target.

    Gradients: the rotation comes from a detached SVD, followed by one linearised step whose value is zero and whose
    derivative is the exact derivative of the polar factor. So first derivatives are right and stay finite where
    singular values coincide (where the SVD's own derivative does not); second derivatives are not provided.
    """
    _check_last(source, (3,), "source")
    _check_last(target, (3,), "target")
    if source.shape[-2] != target.shape[-2]:
        raise ValueError(f"rigid_align: source has {source.shape[-2]} points, target {target.shape[-2]}")
    if source.shape[-2] < 3:
        raise ValueError(f"rigid_align: at least 3 points are needed, got {source.shape[-2]}")
    weights = source.new_ones(source.shape[-2]) if weights is None else weights.to(source)
    share = (weights / weights.sum(-1, keepdim=True))[..., None]
    source_mean = (share * source).sum(-2, keepdim=True)
    target_mean = (share * target).sum(-2, keepdim=True)
    moment = (share * (target - target_mean)).mT @ (source - source_mean)
    rotation = _polar_factor(moment)
    translation = target_mean.mT - rotation @ source_mean.mT
    return torch.cat([rotation, translation], dim=-1)


def _polar_factor(moment: Tensor) -> Tensor:
    """Nearest proper rotation to [..., 3, 3], with the implicit derivative described in `rigid_align`."""
    with torch.no_grad():
        left, _, right = torch.linalg.svd(moment)
        sign = torch.ones_like(moment[..., 0])
        sign[..., 2] = torch.where(torch.linalg.det(left @ right) < 0, -1.0, 1.0)
        rotation = (left * sign[..., None, :]) @ right
        stretch = rotation.mT @ moment
        trace = torch.diagonal(stretch, dim1=-2, dim2=-1).sum(-1)[..., None, None]
        identity = torch.eye(3, dtype=moment.dtype, device=moment.device)
        # d(R^T M - M^T R) = (tr(S) I - S) w for a rotation R exp(skew(w)), S = R^T M
        solver = torch.linalg.pinv(trace * identity - 0.5 * (stretch + stretch.mT))
    if not (torch.is_grad_enabled() and moment.requires_grad):
        return rotation
    twist = rotation.mT @ moment
    twist = twist - twist.mT
    vector = torch.stack([twist[..., 2, 1], twist[..., 0, 2], twist[..., 1, 0]], dim=-1)
    vector = vector - vector.detach()  # rounding noise only; the value must stay the SVD's
    return rotation @ (identity + skew((solver @ vector[..., None]).squeeze(-1)))


def _check_last(tensor: Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(tensor.shape[-len(shape) :]) != shape:
        raise ValueError(f"{name}: wanted [..., {', '.join(map(str, shape))}], got {list(tensor.shape)}")
