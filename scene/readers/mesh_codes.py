"""Codes from posed meshes: identity, jaw, eyes and eyelids of a head whose expression codes are known.

For layouts that keep each frame's mesh but not all codes. Meshes of the same model leave no error but their file's
rounding, so Gauss-Newton from rest ends at the codes themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flame import Head, pose_head
from flame.codes import fit_code
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from scene.frame import Frame
from scene.readers.files import Floats, tracking_of
from scene.readers.source import Source

STEPS = 6  # of Gauss-Newton; the error falls by more than ten times in each
DELTA = 1e-4  # of forward differences, radians or shares of a closed lid
TURNS, LIDS = 9, 2  # jaw and both eyes as axis-angle vectors; eyelids
CHUNK = 16  # frames solved at once: 16 x 3 V x 11 numbers of 8 bytes are 21 MB for FLAME
WORST = 1e-3  # metres, root mean square: a mesh of another head model


def read_vertices(path: Path) -> Floats:
    """Vertices [V,3] of a Wavefront .obj. Raises FileNotFoundError, ValueError naming the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with open(path, encoding="utf-8", errors="replace") as file:
        rows = [line.split()[1:4] for line in file if line.startswith("v ")]
    try:
        vertices = np.array(rows, np.float64)
    except ValueError as error:
        raise ValueError(f"{path}: a vertex is no three numbers ({error!s:.120})") from error
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not np.isfinite(vertices).all():
        raise ValueError(f"{path}: a mesh is expected, got {len(rows)} vertices")
    return vertices


def fitted_to_meshes(source: Source, head: Head, meshes: Sequence[Path]) -> Source:
    """`source` with identity, jaw, eyes and eyelids fitted to the mesh of each frame: a `Source.pending`.

    meshes: one a frame, vertices of `head` in head space. ValueError naming a file of another head model.
    """
    fit = _Fit(head)
    identity = fit.identity(fit.vertices(meshes[0]), fit.expression(source.frames[:1], meshes[:1]))
    frames: list[Frame] = []
    for start in range(0, len(meshes), CHUNK):
        some, files = source.frames[start:start + CHUNK], meshes[start:start + CHUNK]
        targets = torch.stack([fit.vertices(file) for file in files])
        codes, error = fit.motion(targets, identity, fit.expression(some, files))
        for frame, row, file, off in zip(some, codes.numpy(), files, error.tolist(), strict=True):
            if off > WORST:
                raise ValueError(f"{file}: the head model '{head.name}' comes no nearer than {1000 * off:.1f} mm (root "
                                 "mean square); choose the one that the data was tracked with (--head)")
            tracking = tracking_of(identity.numpy(), frame.tracking.expression, row[:3], row[3:9], row[9:])
            frames.append(replace(frame, tracking=tracking))
    return replace(source, frames=tuple(frames))


class _Fit:
    """The head model in double precision."""

    def __init__(self, head: Head) -> None:
        self.head = head.to(dtype=torch.float64)

    def vertices(self, path: Path) -> Tensor:
        """[V,3] of a file with as many vertices as the head."""
        vertices = read_vertices(path)
        if len(vertices) != self.head.n_vertices:
            raise ValueError(f"{path}: {self.head.n_vertices} vertices are expected for the head model "
                             f"'{self.head.name}', got {len(vertices)}; choose the one that the data was tracked with "
                             "(--head)")
        return torch.from_numpy(vertices)

    def expression(self, frames: Sequence[Frame], files: Sequence[Path]) -> Tensor:
        """Expression codes [T,E], fitted to the head."""
        return torch.from_numpy(np.stack([
            fit_code(frame.tracking.expression, self.head.n_expression, "expression", str(file)).astype(np.float64)
            for frame, file in zip(frames, files, strict=True)]))

    def identity(self, target: Tensor, expression: Tensor) -> Tensor:
        """Shape codes [S], from the mesh of one frame, whose other codes are found with them."""
        shape, motion = torch.zeros(self.head.n_shape, dtype=torch.float64), torch.zeros(1, TURNS + LIDS).double()
        for _ in range(STEPS):
            here = self._posed(shape, expression, motion)
            units = torch.eye(len(shape), dtype=torch.float64)
            columns = [self._posed(shape + unit, expression, motion)[0] - here[0] for unit in units]
            jacobian = torch.cat([torch.stack(columns, dim=1), self._slopes(shape, expression, motion, here)[0]], dim=1)
            step = _least_squares(jacobian[None], (target.flatten() - here[0])[None])[0]
            shape, motion = shape + step[:len(shape)], motion + step[len(shape):]
        return shape

    def motion(self, targets: Tensor, shape: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Jaw, eyes and lids [T,11] of meshes [T,V,3], and what remains [T]: metres, root mean square."""
        motion = torch.zeros(len(targets), TURNS + LIDS, dtype=torch.float64)
        for _ in range(STEPS):
            here = self._posed(shape, expression, motion)
            motion = motion + _least_squares(self._slopes(shape, expression, motion, here), targets.flatten(1) - here)
        rest = (targets.flatten(1) - self._posed(shape, expression, motion)).unflatten(1, (-1, 3))
        return motion, rest.square().sum(dim=2).mean(dim=1).sqrt()

    def _posed(self, shape: Tensor, expression: Tensor, motion: Tensor) -> Tensor:
        """Vertices [T,3V] for motion [T,11]."""
        six = matrix_to_6d(matrix_from_axis_angle(motion[:, :TURNS].unflatten(1, (3, 3)))).flatten(1)
        return pose_head(self.head, shape, expression, six[:, :6], six[:, 6:], motion[:, TURNS:]).vertices.flatten(1)

    def _slopes(self, shape: Tensor, expression: Tensor, motion: Tensor, here: Tensor) -> Tensor:
        """Derivative [T,3V,11] of `_posed` by the motion; here: its value."""
        steps = DELTA * torch.eye(TURNS + LIDS, dtype=torch.float64)
        moved = [(self._posed(shape, expression, motion + step) - here) / DELTA for step in steps]
        return torch.stack(moved, dim=2)


def _least_squares(jacobian: Tensor, rest: Tensor) -> Tensor:
    """Steps [T,n] for jacobians [T,m,n]; codes that move nothing (lids of a model without any) stay."""
    normal = jacobian.mT @ jacobian
    damping = 1e-12 * normal.diagonal(dim1=1, dim2=2).amax(dim=1)
    identity = torch.eye(normal.shape[1], dtype=normal.dtype)
    return torch.linalg.solve(normal + damping[:, None, None] * identity, (jacobian.mT @ rest[..., None]))[..., 0]
