"""From codes and cameras of frames to their `Drive` in one step, and pictures to bytes: what only playing needs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _native, backends
from .tables import Drive, index_range, require, require_offsets

JOINTS = 5
BONES = JOINTS + 2
FEATURES = 9 * (JOINTS - 1)
LINEAR_ROWS = 3 * JOINTS + 12 * JOINTS

_SIZES = "frames head_expressions expressions features triangles vertices threads"
_CODES = "expression neck jaw eyes eyelids R t"
_TABLES = (
    "base linear anchor_weights anchor_lids anchor_mean lower_weights parents code_range map_offsets map_expression "
    "map_values pose_dirs eyelid_dirs"
)
_RESULTS = "beta bones camera_centers triangle_maps pre_offsets post_offsets"


class DriveArgs(ctypes.Structure):
    """Mirror of `DriveArgs` in include/play.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES.split()),
        *((name, ctypes.c_void_p) for name in f"{_CODES} {_TABLES} {_RESULTS}".split()),
    ]


_native.mirror(
    "blendshape_ops", DriveArgs, JOINTS=JOINTS, BONES=BONES, FEATURES=FEATURES, LINEAR_ROWS=LINEAR_ROWS
)


@dataclass(frozen=True, eq=False)
class FrameCodes:
    """Codes and cameras of B frames: E expressions, rotations as their first two rows, world-to-camera R and t."""

    expression: Tensor  # [B, E]
    neck: Tensor  # [B, 6]
    jaw: Tensor  # [B, 6]
    eyes: Tensor  # [B, 12], left, right
    eyelids: Tensor  # [B, 2], left, right
    R: Tensor  # [B, 3, 3]
    t: Tensor  # [B, 3]


@dataclass(frozen=True, eq=False)
class DriveTables:
    """Constants of one identity (J = 5 joints: root, neck, jaw, eyes; E expressions, of which K move Gaussians).

    The rigid motion of the skull is the best one for some anchor vertices v with shares s_v; rest_v is measured from
    their mean. `base` [75] + x `linear` [E + 36 or E, 75], with x = (expression, R_j - I of joints 1 to 4; these with
    pose correctives only): rest joints [5, 3], then for each joint j, axis a the sums of
    s_v w_vj shaped_va (rest_v, 1), [5, 3, 4]. `anchor_weights` [5, 4]: of s_v w_vj (rest_v, 1); `anchor_lids`
    [2, 3, 4]: of s_v lid_va (rest_v, 1); `anchor_mean` [3].

    `code_range` [2, K]: limits of the codes that drive the differences (`limit_codes`). `map_offsets` [F + 1],
    `map_expression` [Q] int32, `map_values` [Q, 16]: the triangle maps that are not zero, by triangle. `pose_dirs`
    [36, 3V] or None, `eyelid_dirs` [2, 3V] or None. All of one dtype and device.
    """

    base: Tensor
    linear: Tensor
    anchor_weights: Tensor
    anchor_lids: Tensor
    anchor_mean: Tensor
    lower_weights: Tensor  # [5], skinning weights of the lower teeth
    parents: Tensor  # [5] int32, parents before children
    code_range: Tensor
    map_offsets: Tensor
    map_expression: Tensor
    map_values: Tensor
    faces: Tensor  # [F, 3] int32
    num_expressions: int  # E
    pose_dirs: Tensor | None = None
    eyelid_dirs: Tensor | None = None

    def __post_init__(self) -> None:
        dtype, features = self.base.dtype, 0 if self.pose_dirs is None else FEATURES
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(f"base: wanted float32 or float64, got {dtype}")
        shapes: dict[str, tuple[int | None, ...]] = {
            "base": (LINEAR_ROWS,), "linear": (self.num_expressions + features, LINEAR_ROWS),
            "anchor_weights": (JOINTS, 4), "anchor_lids": (2, 3, 4), "anchor_mean": (3,), "lower_weights": (JOINTS,),
            "code_range": (2, None), "map_values": (len(self.map_expression), 16),
        }  # fmt: skip
        for name, shape in shapes.items():
            require(getattr(self, name), name, shape, dtype)
        for name, length in (("parents", JOINTS), ("map_offsets", len(self.faces) + 1), ("map_expression", None)):
            require(getattr(self, name), name, (length,), torch.int32)
        for name, directions in (("pose_dirs", FEATURES), ("eyelid_dirs", 2)):
            if getattr(self, name) is not None:
                require(getattr(self, name), name, (directions, None), dtype)
        require(self.faces, "faces", (None, 3), torch.int32)
        self._check_indices()

    def _check_indices(self) -> None:
        """Native code follows these without looking."""
        require_offsets(self.map_offsets, "map_offsets", len(self.map_expression))
        smallest, largest = index_range(self.map_expression)
        if smallest < 0 or largest >= self.num_expressions:
            raise ValueError(f"map_expression: wanted 0 to {self.num_expressions - 1}, got {smallest} to {largest}")
        if self.code_range.shape[1] > self.num_expressions:
            raise ValueError(f"code_range: wanted at most {self.num_expressions} codes, got {self.code_range.shape[1]}")
        parents = self.parents.tolist()
        if not all(0 <= parent < joint for joint, parent in enumerate(parents) if joint):
            raise ValueError(f"parents: wanted each joint's parent before it, got {parents}")


def drive_frames(tables: DriveTables, codes: FrameCodes, backend: str = "auto") -> Drive:
    """The `Drive` of B frames: seven bones (five joints, rigid skull, lower teeth), maps, offsets, limited codes.

    On a GPU one launch, nothing waits. The skull's motion needs an anchor that is not flat. Backends "cpp" and "cuda"
    (float32); raises ValueError or TypeError for what does not fit.
    """
    frames, dtype = codes.expression.shape[0], tables.base.dtype
    shapes = {"expression": (tables.num_expressions,), "neck": (6,), "jaw": (6,), "eyes": (12,), "eyelids": (2,),
              "R": (3, 3), "t": (3,)}  # fmt: skip
    for name, shape in shapes.items():
        require(getattr(codes, name), name, (frames, *shape), dtype)
        if getattr(codes, name).device != tables.base.device:
            raise ValueError(f"{name}: wanted device {tables.base.device}, got {getattr(codes, name).device}")
    chosen = backends.resolve(backend, tables.base)
    if chosen == "torch":
        raise ValueError("backend: drive_frames has no torch backend, wanted cpp or cuda")
    expressions, triangles = tables.code_range.shape[1], len(tables.faces)
    directions = next((t for t in (tables.pose_dirs, tables.eyelid_dirs) if t is not None), None)
    vertices = 0 if directions is None else directions.shape[1] // 3
    sizes = {"beta": (expressions,), "bones": (BONES, 3, 4), "camera_centers": (3,), "triangle_maps": (triangles, 16)}
    out = {name: tables.base.new_empty(frames, *shape) for name, shape in sizes.items()}
    for name, table in (("pre_offsets", tables.pose_dirs), ("post_offsets", tables.eyelid_dirs)):
        if table is not None:
            out[name] = tables.base.new_empty(frames, vertices, 3)
    tensors = {name: getattr(codes, name).contiguous() for name in _CODES.split()}
    tensors |= {name: getattr(tables, name) for name in _TABLES.split()} | out
    args = DriveArgs(
        frames=frames,
        head_expressions=tables.num_expressions,
        expressions=expressions,
        features=0 if tables.pose_dirs is None else FEATURES,
        triangles=triangles,
        vertices=vertices,
        threads=backends.threads(),
        **{name: backends.address(tensor) for name, tensor in tensors.items()},
    )
    backends.call(chosen, "drive", tables.base, ctypes.byref(args))
    return Drive(faces=tables.faces, **out)


def to_bytes(image: Tensor, backend: str = "auto") -> Tensor:
    """Pictures [B, 3, H, W] float32 as bytes [B, H, W, 3]: [0, 1] to 0..255, rounded; cut off outside, NaN to 0."""
    require(image, "image", (None, 3, None, None), torch.float32)
    chosen = backends.resolve(backend, image)
    if chosen == "torch":
        raise ValueError("backend: to_bytes has no torch backend, wanted cpp or cuda")
    frames, _, height, width = image.shape
    image, out = image.contiguous(), image.new_empty(frames, height, width, 3, dtype=torch.uint8)
    sizes = (ctypes.c_int64(size) for size in (frames, height * width, backends.threads()))
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (image, out))
    backends.call(chosen, "to_bytes", image, *pointers, *sizes)
    return out
