"""The avatar: everything that is learnt, what binds each Gaussian to the head, and a pure forward pass.

Trainer, test.py, Player, FastRenderer and exports all hold this one object and pose through `Avatar.pose`.
"""

from __future__ import annotations

from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from blendshape_ops import (
    LOG_SCALES,
    Binding,
    Differences,
    Drive,
    HalfDifferences,
    Posed,
    blend_pose_color,
    blend_pose_color_half,
    limit_codes,
)
from torch import Tensor, nn

from scene.extensions import apply_extensions, on_new_leaves
from scene.sway import Sway

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
    attributes, networks, network_options   what is learnt besides, by name; see scene/extensions.py
    sway         what moves otherwise than the head model, or None; see scene/sway.py
    """

    neutral: Tensor
    differences: Differences
    binding: Binding
    part: Tensor
    code_range: Tensor
    attributes: dict[str, Tensor] = field(default_factory=dict)
    networks: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    network_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    sway: Sway | None = None
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

    @property
    def extended(self) -> tuple[str, ...]:
        """Attributes and networks by name; empty for an avatar that has none, which every format can hold."""
        return (*self.attributes, *self.networks)

    def extra_parameters(self) -> dict[str, Tensor]:
        """The learnable tensors besides the packed tables, by the names that they have in a checkpoint."""
        return {**{f"attributes.{name}": values for name, values in self.attributes.items()},
                **{f"networks.{name}": p for name, p in self.networks.named_parameters() if p.requires_grad},
                **({} if self.sway is None else {"sway.values": self.sway.values})}

    def on_new_leaves(self) -> Avatar:
        """The same Gaussians in the same memory, neutral table and extra parameters as new leaves of autograd."""
        self.teeth_rows()  # found here, once, and not by every copy
        twin = copy(self)
        twin.neutral = self.neutral.detach().requires_grad_()
        twin.attributes = {name: values.detach().requires_grad_() for name, values in self.attributes.items()}
        twin.networks = on_new_leaves(self.networks)
        twin.sway = None if self.sway is None else self.sway.on_new_leaf()
        return twin

    def pose(self, drive: Drive, sh_degree: int, limited: bool = True, half: HalfDifferences | None = None) -> Posed:
        """Blend, pose and colour all Gaussians for a batch of frames (differentiable; see blend_pose_color).

        Codes drive the differences as far as training went (`limit_codes`): what was learnt from smiles up to 0.6 says
        nothing about a smile of 1, and extrapolated colours turn into noise (docs/performance.md). The mesh-driven
        motion, which the head model does know, follows the codes without limit. Not `limited`: for training frames,
        whose codes are within. `half`: the differences in half precision, to pose with instead; not differentiable.
        """
        if limited:
            drive = replace(drive, beta=limit_codes(drive.beta, self.code_range))
        if self.sway is not None:
            drive = self.sway.applied(drive)
        if half is None:
            posed = blend_pose_color(self.neutral, self.differences, self.binding, drive, sh_degree)
        else:
            posed = blend_pose_color_half(self.neutral, half, self.binding, drive, sh_degree)
        return apply_extensions(posed, self, drive)

    def select_rows(self, index: Tensor, values: Tensor) -> None:
        """Replace the Gaussians by copies of old rows `index` [N'], with `values` [N',60] as the neutral table.

        Differences, mask, binding, part and attributes follow the index. What `pose` and the losses would find at
        their first use, and then wait for a GPU, is found here.
        """
        self.neutral = values.detach().clone().requires_grad_(True)
        self.differences = self.differences.select(index)
        self.binding = self.binding.select(index)
        self.part = self.part[index]
        self.attributes = {name: values.detach()[index].requires_grad_() for name, values in self.attributes.items()}
        self.teeth_rows()
        _ = self.differences.num_expressions_used, self.binding.triangle_pieces

    def to(self, device: torch.device) -> Avatar:
        """A copy on `device`."""
        attributes = {name: values.detach().to(device).requires_grad_() for name, values in self.attributes.items()}
        return Avatar(self.neutral.detach().to(device).requires_grad_(True), self.differences.to(device),
                      self.binding.to(device), self.part.to(device), self.code_range.to(device), attributes,
                      deepcopy(self.networks).to(device), self.network_options,
                      None if self.sway is None else self.sway.to(device))

    def isotropy(self) -> Tensor:
        """Mean squared excess over 1 of the axis ratio (largest + 1 mm) / (smallest + 1 mm)."""
        scales = self.neutral[:, LOG_SCALES].exp()
        ratio = (scales.amax(dim=1) + 1e-3) / (scales.amin(dim=1) + 1e-3)
        return ((ratio - 1) ** 2).mean()
