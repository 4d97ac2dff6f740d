"""The packed parameter table and the records that `blend_pose_color` works on.

One row of 60 floats holds every learnable number of a Gaussian (59 and a pad that is always 0, which makes a row 15
float4): means 0:3, quats 3:7 (w, x, y, z), log_scales 7:10, opacity logit 10:11, sh 11:59 coefficient-major [16][3].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from . import _native

MEANS = slice(0, 3)
QUATS = slice(3, 7)
LOG_SCALES = slice(7, 10)
OPACITY = slice(10, 11)
SH = slice(11, 59)
GEOMETRY = slice(0, 11)
WIDTH = 60
MAX_SH_DEGREE = 3
TRIANGLE_MAP = 16  # numbers of a triangle's map
_native.mirror(
    "blendshape_ops",
    **{name: columns.start for name, columns in (("MEANS", MEANS), ("QUATS", QUATS), ("LOG_SCALES", LOG_SCALES),
                                                 ("OPACITY", OPACITY), ("SH", SH))},
    ROW=WIDTH,
    GEOMETRY=GEOMETRY.stop,
    SH_MAX_DEGREE=MAX_SH_DEGREE,
    TRIANGLE_MAP=TRIANGLE_MAP,
)  # fmt: skip
PIECE = 128  # Gaussians of one triangle whose gradients one warp sums


def active_columns(sh_degree: int) -> int:
    """How many leading columns of a row matter at `sh_degree` (14, 23, 38 or 59); ValueError outside 0..3."""
    if not 0 <= sh_degree <= MAX_SH_DEGREE:
        raise ValueError(f"sh_degree: wanted 0..{MAX_SH_DEGREE}, got {sh_degree}")
    return SH.start + 3 * (sh_degree + 1) ** 2


def require(tensor: Tensor, name: str, shape: tuple[int | None, ...], dtype: torch.dtype | None = None) -> None:
    """Raise unless `tensor` has `shape` (None = any size along that axis) and `dtype` (None = any)."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: wanted a tensor, got {type(tensor).__name__}")
    matches = tensor.ndim == len(shape) and all(w in (None, g) for w, g in zip(shape, tensor.shape, strict=False))
    if not matches:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: wanted shape [{wanted}], got {list(tensor.shape)}")
    if dtype is not None and tensor.dtype != dtype:
        raise TypeError(f"{name}: wanted {dtype}, got {tensor.dtype}")


Found = TypeVar("Found")
_ranges: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_pieces: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _kept(cache: WeakTensorKeyDictionary, tensor: Tensor, found_in: Callable[[Tensor], Found]) -> Found:
    """What `found_in` says of a tensor, kept while it lives and is not written to."""
    version, found = cache.get(tensor, (None, None))
    now = None if tensor.is_inference() else tensor._version
    if now is None or version != now:
        found = found_in(tensor)
        cache[tensor] = (now, found)
    return found


def index_range(indices: Tensor) -> tuple[int, int]:
    """Smallest and largest of integer `indices`; (0, -1) of none.

    Kept while the tensor lives and is not written to, because reading them waits for the device.
    """
    def read(indices: Tensor) -> tuple[int, int]:
        if not indices.numel():
            return 0, -1
        low, high = torch.stack(indices.aminmax()).tolist()
        return low, high

    return _kept(_ranges, indices, read)


def require_offsets(offsets: Tensor, name: str, count: int) -> None:
    """Raise unless int32 `offsets` rise from 0 to `count`."""
    good = offsets.numel() > 0 and bool((offsets.diff() >= 0).all())
    if not good or int(offsets[0]) != 0 or int(offsets[-1]) != count:
        raise ValueError(f"{name}: wanted numbers that rise from 0 to {count}, got others")


@dataclass(frozen=True, eq=False)
class Factors:
    """What one backward pass says about the differences, in factored form.

    The gradient of the row of pair p = (Gaussian n, expression k) is `sum_b mask[p] beta[b, k] v[b, n, :]`, where
    `v[b, n, :11] = v_geometry[b, n]` and `v[b, n, 11 + 3 j + c] = Y_j(directions[b, n]) v_rgb[b, n, c]` for j below
    (sh_degree + 1)^2.
    """

    v_geometry: Tensor  # [B, N, 11], with respect to blended means, raw quats, log-scales, opacity logit
    v_rgb: Tensor  # [B, N, 3], zero where the colour was clamped
    directions: Tensor  # [B, N, 3], unit, in the frame of the unposed Gaussian
    beta: Tensor  # [B, K]
    sh_degree: int


@dataclass(eq=False)
class Differences:
    """Expression differences: one row for each (Gaussian, expression) pair whose mask is not zero, sorted by Gaussian.

    `values` [P, 60]; `offsets` [N + 1] int32: the pairs of Gaussian n are rows offsets[n] to offsets[n + 1];
    `gaussian`, `expression` [P] int32; `mask` [P], the factor that multiplies the expression code. `factors` grows by
    one with every backward pass of a native backend while `trainable`, and is cleared by the optimizer.
    """

    values: Tensor
    offsets: Tensor
    gaussian: Tensor
    expression: Tensor
    mask: Tensor
    trainable: bool = True
    factors: list[Factors] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(self.values, "values", (None, WIDTH))
        pairs = self.values.shape[0]
        require(self.offsets, "offsets", (None,), torch.int32)
        require(self.gaussian, "gaussian", (pairs,), torch.int32)
        require(self.expression, "expression", (pairs,), torch.int32)
        require(self.mask, "mask", (pairs,), self.values.dtype)
        if not torch.equal(gaussians_of_pairs(self.offsets, pairs), self.gaussian):
            raise ValueError("offsets: wanted [N + 1] counts of pairs sorted by gaussian, got offsets that disagree")
        if pairs and int(self.expression.min()) < 0:
            raise ValueError("expression: wanted indices from 0, got a negative one")

    @property
    def num_gaussians(self) -> int:
        return self.offsets.numel() - 1

    @property
    def num_expressions_used(self) -> int:
        """1 + the largest expression index (0 without pairs)."""
        return index_range(self.expression)[1] + 1

    @staticmethod
    def from_mask(mask: Tensor) -> Differences:
        """Zero differences for every positive entry of `mask` [N, K] (its dtype and device are kept)."""
        require(mask, "mask", (None, None))
        if not mask.is_floating_point():
            raise TypeError(f"mask: wanted a floating type, got {mask.dtype}")
        kept = mask > 0
        gaussian, expression = kept.nonzero(as_tuple=True)
        return Differences(
            values=mask.new_zeros(gaussian.numel(), WIDTH),
            offsets=_offsets_of_counts(kept.sum(dim=1)),
            gaussian=gaussian.int(),
            expression=expression.int(),
            mask=mask[gaussian, expression],
        )

    def pairs_of(self, index: Tensor) -> Tensor:
        """Rows [P'] (int64) of the pairs of the Gaussians `index` [N'] (int64, repeats allowed), in that order."""
        counts = self.offsets.diff().long()[index]
        first = self.offsets[:-1].long()[index]
        starts = counts.cumsum(0) - counts
        shift = torch.repeat_interleave(first - starts, counts)
        return torch.arange(shift.numel(), device=shift.device) + shift

    def with_pairs(self) -> tuple[Differences, Tensor]:
        """The same pairs in the same memory as those of the M Gaussians that have any, and which these are, int64 [M].

        Factors for it need only hold those Gaussians. Waits for the device.
        """
        counts = self.offsets.diff()
        index = counts.nonzero()[:, 0]
        offsets = _offsets_of_counts(counts[index])
        gaussian = gaussians_of_pairs(offsets, self.values.shape[0])
        return Differences(self.values, offsets, gaussian, self.expression, self.mask, self.trainable), index

    def select(self, index: Tensor) -> Differences:
        """The differences of the Gaussians `index` [N'] (int64, repeats allowed), renumbered 0..N'-1; copies."""
        rows = self.pairs_of(index)
        counts = self.offsets.diff().long()[index]
        numbers = torch.arange(index.numel(), device=index.device)
        return Differences(
            values=self.values.detach()[rows].requires_grad_(self.values.requires_grad),
            offsets=_offsets_of_counts(counts),
            gaussian=torch.repeat_interleave(numbers, counts).int(),
            expression=self.expression[rows],
            mask=self.mask[rows],
            trainable=self.trainable,
        )

    def dense(self, num_expressions: int) -> Tensor:
        """The values as a table [N, K, 60], zero where there is no pair; for export and tests (large)."""
        if num_expressions < self.num_expressions_used:
            raise ValueError(f"num_expressions: wanted at least {self.num_expressions_used}, got {num_expressions}")
        table = self.values.new_zeros(self.num_gaussians, num_expressions, WIDTH)
        table[self.gaussian.long(), self.expression.long()] = self.values.detach()
        return table

    def to(self, device: torch.device | str) -> Differences:
        """A copy on `device`, without factors."""
        return Differences(
            self.values.detach().to(device),
            self.offsets.to(device),
            self.gaussian.to(device),
            self.expression.to(device),
            self.mask.to(device),
            trainable=self.trainable,
        )


def _pieces_of(triangle: Tensor) -> tuple[Tensor, Tensor]:
    """See `Binding.triangle_pieces`."""
    ordered, index = torch.sort(triangle, stable=True)
    triangles = torch.arange(index_range(triangle)[1] + 2, dtype=torch.int32, device=ordered.device)
    begins = torch.searchsorted(ordered, triangles)
    cuts = torch.arange(0, len(ordered), PIECE, device=ordered.device).maximum(begins[:1])
    return index.int(), torch.cat((begins, cuts)).sort().values.int()


@dataclass(frozen=True, eq=False)
class Binding:
    """How each Gaussian hangs on the head; constants whose rows densification copies."""

    triangle: Tensor  # [N] int32, -1: bound to none
    anchor: Tensor  # [N, 3], the point that the triangle maps move
    barycentric: Tensor  # [N, 3]
    weights: Tensor  # [N, J], skinning weights

    def __post_init__(self) -> None:
        require(self.triangle, "triangle", (None,), torch.int32)
        count = self.triangle.shape[0]
        require(self.anchor, "anchor", (count, 3))
        require(self.barycentric, "barycentric", (count, 3), self.anchor.dtype)
        require(self.weights, "weights", (count, None), self.anchor.dtype)
        if count and int(self.triangle.min()) < -1:
            raise ValueError("triangle: wanted indices from 0 or -1 for none, got a smaller one")

    @property
    def num_triangles_used(self) -> int:
        """1 + the largest triangle index (0 when none is bound)."""
        return index_range(self.triangle)[1] + 1

    @property
    def triangle_pieces(self) -> tuple[Tensor, Tensor]:
        """Gaussians in the order of their triangles, int32 [N], and bounds of pieces of that order, int32 [M + 1].

        A piece holds at most PIECE Gaussians, all of one triangle; some are empty. Unbound Gaussians come first and
        belong to no piece.
        """
        return _kept(_pieces, self.triangle, _pieces_of)

    def select(self, index: Tensor) -> Binding:
        """The binding of the Gaussians `index` [N'] (int64, repeats allowed)."""
        return Binding(self.triangle[index], self.anchor[index], self.barycentric[index], self.weights[index])

    def to(self, device: torch.device | str) -> Binding:
        """The same on `device`."""
        return Binding(*(t.to(device) for t in (self.triangle, self.anchor, self.barycentric, self.weights)))


@dataclass(frozen=True, eq=False)
class Drive:
    """What moves the Gaussians in a batch of B frames."""

    beta: Tensor  # [B, K], expression codes
    triangle_maps: Tensor  # [B, F, 16]: A (3x3, row-major), c (3), dq (4)
    bones: Tensor  # [B, J, 3, 4]
    camera_centers: Tensor  # [B, 3], metres
    faces: Tensor  # [F, 3] int32
    pre_offsets: Tensor | None = None  # [B, V, 3], added before skinning (pose correctives)
    post_offsets: Tensor | None = None  # [B, V, 3], added after skinning (eyelids)
    sway: Tensor | None = None  # [B, 6], for who adds learnt motion to pre_offsets; the operations do not look at it


@dataclass(frozen=True, eq=False)
class Posed:
    """Gaussians of every frame, ready to be drawn: what the rasterizer takes."""

    means: Tensor  # [B, N, 3], metres
    quats: Tensor  # [B, N, 4], (w, x, y, z)
    scales: Tensor  # [B, N, 3], metres
    opacities: Tensor  # [B, N]
    colors: Tensor  # [B, N, 3], at least 0, unbounded above


def gaussians_of_pairs(offsets: Tensor, pairs: int) -> Tensor:
    """The Gaussian of each of `pairs` pairs, int32 [P], from where each Gaussian's pairs begin, int32 [N + 1].

    Raises ValueError unless the offsets rise from 0 to P: native code reads the rows between them.
    """
    require(offsets, "offsets", (None,), torch.int32)
    if offsets.numel() < 1:
        raise ValueError("offsets: wanted [N + 1] numbers, got none")
    counts = offsets.long().diff()
    first, last, smallest = torch.stack([offsets[0].long(), offsets[-1].long(),
                                         counts.min() if len(counts) else offsets[0].long()]).tolist()
    if first != 0 or last != pairs or smallest < 0:
        raise ValueError(f"offsets: wanted numbers that rise from 0 to {pairs}, the number of pairs; got {first} to "
                         f"{last}, the smallest step {smallest}")
    numbers = torch.arange(len(counts), dtype=torch.int32, device=offsets.device)
    return torch.repeat_interleave(numbers, counts)


def _offsets_of_counts(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
