"""The record of a parametric head: what FLAME and the open head have in common."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from flame.landmarks import LandmarkEmbedding

JOINT_NAMES = ("root", "neck", "jaw", "left_eye", "right_eye")
"""Order of the joints, as in FLAME; root carries the whole head, the eyes hang on the neck joint like the jaw."""


@dataclass(frozen=True)
class MouthPlacement:
    """Where teeth go, in head space at rest, metres; an arch is a half-ring that is open towards the back.

    center: [3] middle of the arches' open ends, at the height where the teeth meet; the front of the arches is at
    center z + depth. width: between the arches' two ends. depth: from the ends to the front. upper_height,
    lower_height: how far the upper teeth reach above, the lower teeth below, center y. lower_weights: [J] skinning
    weights of the lower teeth, summing to one.
    """

    center: Tensor
    width: float
    depth: float
    upper_height: float
    lower_height: float
    lower_weights: Tensor


@dataclass(frozen=True)
class Head:
    """A parametric head: float32 CPU tensors, metres, y up, z forward, the subject's left = +x.

    name: the file's stem, e.g. "open_head". V vertices, F triangles (counter-clockwise from outside), S identity
    directions, E expressions, J = 5 joints in the order of `JOINT_NAMES`.
    v_template [V,3]; faces [F,3] int64; shape_dirs [V,3,S]; expression_dirs [V,3,E]; pose_dirs [V,3,9*(J-1)], applied
    to the flattened R_j - I of joints 1..J-1; joint_regressor [J,V]; parents: J ints, -1 for the root; weights [V,J]
    skinning weights; eyelids [2,V,3] left and right offset for a closed lid, added after skinning;
    expression_names: E names; expression_jaw [E,3]: jaw rotation vector (radians) that belongs to an expression at
    coefficient 1, zeros where the model keeps jaw and expression apart, as FLAME does;
    regions: int64 index lists, see `flame.regions`; mouth: see `MouthPlacement`; landmarks: where MediaPipe's lie,
    None where the head's files do not tell.
    """

    name: str
    v_template: Tensor
    faces: Tensor
    shape_dirs: Tensor
    expression_dirs: Tensor
    pose_dirs: Tensor
    joint_regressor: Tensor
    parents: tuple[int, ...]
    weights: Tensor
    eyelids: Tensor
    expression_names: tuple[str, ...]
    expression_jaw: Tensor
    mouth: MouthPlacement
    regions: dict[str, Tensor] = field(default_factory=dict)
    landmarks: LandmarkEmbedding | None = None

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_values(self)

    @property
    def n_vertices(self) -> int:
        return self.v_template.shape[0]

    @property
    def n_faces(self) -> int:
        return self.faces.shape[0]

    @property
    def n_shape(self) -> int:
        return self.shape_dirs.shape[2]

    @property
    def n_expression(self) -> int:
        return self.expression_dirs.shape[2]

    @property
    def has_pose_correctives(self) -> bool:
        """False when all pose_dirs are zero, as in the open head: then pose offsets need not be computed at all."""
        return bool(self.pose_dirs.any())

    def with_offset(self, offset: Tensor) -> Head:
        """The same head with `offset` [V,3] (metres) added to its template, from which joints are regressed.

        An offset of more vertices than the head has ends with the teeth that GaussianAvatars' FLAME appends; they are
        left out, as teeth here are Gaussians of their own. ValueError when it has fewer.
        """
        if offset.ndim != 2 or offset.shape[1] != 3 or len(offset) < self.n_vertices:
            raise ValueError(f"{self.name}: a static offset [{self.n_vertices}, 3] is wanted, got "
                             f"{list(offset.shape)}; choose the head model that the data was tracked with (--head)")
        return replace(self, v_template=self.v_template + offset[:self.n_vertices].to(self.v_template))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Head:
        """A copy with its floating tensors in `dtype` and all tensors on `device`; itself when nothing changes."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        same_dtype = dtype is None or dtype == self.v_template.dtype
        if same_dtype and (device is None or torch.device(device) == self.v_template.device):
            return self
        changes: dict[str, Any] = {
            item.name: move(getattr(self, item.name))
            for item in fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        changes["mouth"] = replace(
            self.mouth, center=move(self.mouth.center), lower_weights=move(self.mouth.lower_weights)
        )
        changes["regions"] = {name: move(ids) for name, ids in self.regions.items()}
        return replace(self, **changes)


def check_head_matches(head: Head, n_vertices: int, n_faces: int, where: str) -> None:
    """Raise ValueError when a data set was tracked with another head model than `head`.

    n_vertices, n_faces: the counts that the data set declares; where: the file that declares them.
    """
    if (n_vertices, n_faces) != (head.n_vertices, head.n_faces):
        raise ValueError(
            f"{where}: tracked with a head of {n_vertices} vertices and {n_faces} triangles, but the head model "
            f"'{head.name}' has {head.n_vertices} and {head.n_faces}; choose the one that the data was tracked with"
        )


def _check_shapes(head: Head) -> None:
    vertices, joints = head.v_template.shape[0], len(head.parents)
    n_shape, n_expression = head.shape_dirs.shape[-1], head.expression_dirs.shape[-1]
    if joints != len(JOINT_NAMES):
        raise ValueError(f"{head.name}: wanted {len(JOINT_NAMES)} joints ({', '.join(JOINT_NAMES)}), got {joints}")
    wanted = {
        "v_template": (vertices, 3),
        "faces": (head.faces.shape[0], 3),
        "shape_dirs": (vertices, 3, n_shape),
        "expression_dirs": (vertices, 3, n_expression),
        "pose_dirs": (vertices, 3, 9 * (joints - 1)),
        "joint_regressor": (joints, vertices),
        "weights": (vertices, joints),
        "eyelids": (2, vertices, 3),
        "expression_jaw": (n_expression, 3),
    }
    for name, shape in wanted.items():
        got = tuple(getattr(head, name).shape)
        if got != shape:
            raise ValueError(f"{head.name}: {name} has shape {list(got)}, wanted {list(shape)}")
    if len(head.expression_names) != n_expression:
        raise ValueError(f"{head.name}: {len(head.expression_names)} expression names for {n_expression} expressions")


def _check_values(head: Head) -> None:
    for item in fields(head):
        value = getattr(head, item.name)
        if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            raise ValueError(f"{head.name}: {item.name} holds a number that is not finite")
    if head.faces.numel() and not 0 <= int(head.faces.min()) <= int(head.faces.max()) < head.n_vertices:
        raise ValueError(f"{head.name}: faces name vertices outside 0..{head.n_vertices - 1}")
    if head.parents[0] != -1 or any(not 0 <= p < j for j, p in enumerate(head.parents) if j):
        raise ValueError(f"{head.name}: parents {head.parents} are not a tree whose parents come before their children")
    for name, ids in head.regions.items():
        limit = head.n_faces if name.endswith("_faces") else head.n_vertices
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
            raise ValueError(f"{head.name}: region {name} holds an index outside 0..{limit - 1}")
