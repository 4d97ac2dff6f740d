"""The avatar: learnable tables, what binds each Gaussian to the head, and a pure forward pass."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace

import torch
from blendshape_ops import LOG_SCALES, Binding, Differences, Drive, Posed, blend_pose_color, limit_codes
from torch import Tensor

# Part labels of Gaussians.
FACE, UPPER_TEETH, LOWER_TEETH = 0, 1, 2
PART_NAMES = ("face", "upper teeth", "lower teeth")


@dataclass
class Avatar:
    """N Gaussians of one head.

    neutral      [N,60] learnable table, columns as in scene/schema.py
    differences  learnable differences per (Gaussian, expression) pair, [P,60], with their consistency mask
    binding      per-Gaussian constants: triangle, anchor on the neutral mesh, barycentrics, bone weights
    part         [N] uint8: FACE, UPPER_TEETH or LOWER_TEETH
    code_range   [2,K] smallest and largest expression codes of training, 0 included; see `pose`
    """

    neutral: Tensor
    differences: Differences
    binding: Binding
    part: Tensor
    code_range: Tensor
    _teeth: tuple[Tensor, Tensor, Tensor] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def count(self) -> int:
        """N, the number of Gaussians."""
        return self.neutral.shape[0]

    def part_counts(self) -> dict[str, int]:
        """Number of Gaussians of each part."""
        counts = torch.bincount(self.part.long(), minlength=len(PART_NAMES)).tolist()
        return dict(zip(PART_NAMES, counts, strict=True))

    def teeth_rows(self) -> tuple[Tensor, Tensor]:
        """Row numbers (int64) of all teeth, and weights with which a sum over them is mean(upper) + mean(lower).

        Found once for each `part`, because finding them waits for a GPU.
        """
        if self._teeth is None or self._teeth[0] is not self.part:
            rows = [(self.part == part).nonzero()[:, 0] for part in (UPPER_TEETH, LOWER_TEETH)]
            weights = [self.neutral.new_full((len(part),), 1 / max(1, len(part))) for part in rows]
            self._teeth = self.part, torch.cat(rows), torch.cat(weights)
        return self._teeth[1:]

    def on_new_leaf(self) -> Avatar:
        """The same Gaussians in the same memory, the neutral table as a new leaf of autograd."""
        self.teeth_rows()  # found here, once, and not by every copy
        twin = copy(self)
        twin.neutral = self.neutral.detach().requires_grad_()
        return twin

    def pose(self, drive: Drive, sh_degree: int, limited: bool = True) -> Posed:
        """Blend, pose and colour all Gaussians for a batch of frames (differentiable; see blend_pose_color).

        Codes drive the differences as far as training went (`limit_codes`): what was learnt from smiles up to 0.6 says
        nothing about a smile of 1, and extrapolated colours turn into noise (docs/performance.md). The mesh-driven
        motion, which the head model does know, follows the codes without limit. Not `limited`: for training frames,
        whose codes are within.
        """
        if limited:
            drive = replace(drive, beta=limit_codes(drive.beta, self.code_range))
        return blend_pose_color(self.neutral, self.differences, self.binding, drive, sh_degree)

    def select_rows(self, index: Tensor, values: Tensor) -> None:
        """Replace the Gaussians by copies of old rows `index` [N'], with `values` [N',60] as the neutral table.

        Differences, mask, binding and part follow the index.
        """
        self.neutral = values.detach().clone().requires_grad_(True)
        self.differences = self.differences.select(index)
        self.binding = self.binding.select(index)
        self.part = self.part[index]

    def to(self, device: torch.device) -> Avatar:
        """A copy on `device`."""
        return Avatar(self.neutral.detach().to(device).requires_grad_(True), self.differences.to(device),
                      self.binding.to(device), self.part.to(device), self.code_range.to(device))

    def isotropy(self) -> Tensor:
        """Mean squared excess over 1 of the axis ratio (largest + 1 mm) / (smallest + 1 mm); reference section 6.1."""
        scales = self.neutral[:, LOG_SCALES].exp()
        ratio = (scales.amax(dim=1) + 1e-3) / (scales.amin(dim=1) + 1e-3)
        return ((ratio - 1) ** 2).mean()
