"""Codes from posed meshes: identity, jaw, eyes and eyelids of a head whose expression codes are known.

For layouts that keep each frame's mesh but not all codes. Meshes of the same model leave no error but their file's
rounding, so Gauss-Newton from rest ends at the codes themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flame import Head, Joints, pose_feature, posed_vertices
from flame.codes import fit_code
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from scene.frame import Frame
from scene.readers.files import Floats, tracking_of
from scene.readers.source import Source

STEPS = 8  # of Gauss-Newton at most
FINISHED = 1e-7  # a step without a larger change is the last: radians, shares of a closed lid
DELTA = 1e-5  # of forward differences, radians or shares of a closed lid
TURNS, LIDS = 9, 2  # jaw and both eyes as axis-angle vectors; eyelids
CHUNK = 32  # frames solved at once
POINTS = 250  # vertices of jaw, of each eye and of the lids that a frame is fitted to; far more than its 11 codes
SPREAD = 1000  # vertices over the whole head, for the identity
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
                                 "mean square); choose the one that the data was tracked with (--head), or the codes "
                                 "in flame/exp are of other frames")
            tracking = tracking_of(identity.numpy(), frame.tracking.expression, row[:3], row[3:9], row[9:])
            frames.append(replace(frame, tracking=tracking))
    return replace(source, frames=tuple(frames))


class _Fit:
    """The head model in double precision, cut down to the vertices that are looked at."""

    def __init__(self, head: Head) -> None:
        self.head = head.to(dtype=torch.float64)
        regressor = self.head.joint_regressor
        self.joints = Joints.of(self.head, self.head.v_template)
        self.joint_dirs = torch.einsum("jv,vck->jck", regressor, self.head.shape_dirs)
        moved = [*self.head.weights[:, 2:].T, self.head.eyelids.norm(dim=2).sum(dim=0)]
        most = torch.cat([amount.topk(min(POINTS, len(amount))).indices for amount in moved])
        self.moving = torch.unique(most)  # what jaw, eyes and lids move
        spread = torch.arange(0, head.n_vertices, max(1, head.n_vertices // SPREAD))
        self.everywhere = torch.unique(torch.cat([most, spread]))

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
        """Shape codes [S], from the mesh [V,3] of one frame, whose other codes are found with them."""
        shape = torch.zeros(self.head.n_shape, dtype=torch.float64)
        motion = torch.zeros(1, TURNS + LIDS, dtype=torch.float64)
        pose, wanted = self._poser(expression, self.everywhere), target[self.everywhere].flatten()
        for _ in range(STEPS):
            here = pose(shape, motion)
            columns = [pose(shape + unit, motion)[0] - here[0] for unit in torch.eye(len(shape), dtype=torch.float64)]
            slopes = _slopes(lambda moved, shape=shape: pose(shape, moved), motion, here)[0]  # type: ignore[misc]
            jacobian = torch.cat([torch.stack(columns, dim=1), slopes], dim=1)
            step = _least_squares(jacobian[None], (wanted - here[0])[None])
            shape, motion = shape + step[0, :len(shape)], motion + step[0, len(shape):]
            if float(step.abs().max()) < FINISHED:
                break
        return shape

    def motion(self, targets: Tensor, shape: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Jaw, eyes and lids [T,11] of meshes [T,V,3], and what remains [T]: metres, root mean square."""
        motion = torch.zeros(len(targets), TURNS + LIDS, dtype=torch.float64)
        pose = partial(self._poser(expression, self.moving), shape)
        wanted = targets[:, self.moving].flatten(1)
        for _ in range(STEPS):
            here = pose(motion)
            step = _least_squares(_slopes(pose, motion, here), wanted - here)
            motion = motion + step
            if float(step.abs().max()) < FINISHED:
                break
        return motion, (wanted - pose(motion)).unflatten(1, (-1, 3)).square().sum(dim=2).mean(dim=1).sqrt()

    def _poser(self, expression: Tensor, points: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """From shape [S] and motion [T,11] to vertices `points`, [T,3P]."""
        part = {name: getattr(self.head, name)[points]
                for name in ("v_template", "shape_dirs", "expression_dirs", "pose_dirs", "weights")}
        head = replace(self.head, **part, eyelids=self.head.eyelids[:, points], faces=self.head.faces[:0], regions={},
                       joint_regressor=self.head.joint_regressor[:, points])
        rest = torch.zeros(len(expression), 3, dtype=torch.float64)

        def pose(shape: Tensor, motion: Tensor) -> Tensor:
            joints = replace(self.joints, rest=self.joints.rest + self.joint_dirs @ shape)
            turns = matrix_from_axis_angle(torch.cat([rest, motion[:, :TURNS]], dim=1).unflatten(1, (4, 3)))
            neck, jaw, *eyes = matrix_to_6d(turns).unbind(1)
            rotations, _, transforms = joints.pose(expression, neck, jaw, torch.cat(eyes, dim=1))
            neutral = head.v_template + head.shape_dirs @ shape
            return posed_vertices(head, neutral, expression, pose_feature(rotations), transforms,
                                  motion[:, TURNS:]).flatten(1)

        return pose


def _slopes(pose: Callable[[Tensor], Tensor], motion: Tensor, here: Tensor) -> Tensor:
    """Derivative [T,3P,11] of `pose` by the motion; here: its value."""
    steps = DELTA * torch.eye(TURNS + LIDS, dtype=torch.float64)
    return torch.stack([(pose(motion + step) - here) / DELTA for step in steps], dim=2)


def _least_squares(jacobian: Tensor, rest: Tensor) -> Tensor:
    """Steps [T,n] for jacobians [T,m,n]; codes that move nothing (lids of a model without any) stay."""
    normal = jacobian.mT @ jacobian
    damping = 1e-12 * normal.diagonal(dim1=1, dim2=2).amax(dim=1)
    identity = torch.eye(normal.shape[1], dtype=normal.dtype)
    return torch.linalg.solve(normal + damping[:, None, None] * identity, (jacobian.mT @ rest[..., None]))[..., 0]
