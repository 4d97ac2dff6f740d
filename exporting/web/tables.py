"""The Gaussians of an avatar in whole numbers: as coarse as a picture allows.

What a number may be off by depends on how much of its Gaussian is seen: a splat behind others, or small, or thin, takes
coarser steps. All steps are multiples of one scale, which `exporting/web/avatar_file.py` chooses by what pictures show.
Numbers that go together (the colours' dependence on the view, the differences) are first turned onto the principal axes
of all rows in units of their steps: most of the axes then hold next to nothing, and errors stay as large as they were.
web/src/core/assemble.js makes the GPU's tables of the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from blendshape_ops import LOG_SCALES, MEANS, OPACITY, QUATS, SH, Differences
from numpy.typing import NDArray

from exporting.compact import code_reach, visible_rows
from exporting.web.coding import DEAD, Floats, Section, Whole, quantized
from player.player import Player
from scene.avatar import Avatar

MAX_BONES, MAX_PAIRS, MAX_TRIANGLES = 8, 255, 2**24 - 2
DC, REST = slice(SH.start, SH.start + 3), slice(SH.start + 3, SH.stop)


def _steps() -> Floats:
    """[59] steps of the columns where one splat fills the picture: metres, radians, and so on."""
    steps = np.zeros(SH.stop)
    for columns, step in ((MEANS, 2e-5), (QUATS, 0.01), (LOG_SCALES, 0.04), (OPACITY, 0.08), (DC, 0.03), (REST, 0.03)):
        steps[columns] = step
    return steps


STEPS = _steps()
WEIGHT_STEP, BARYCENTRIC_STEP = 1 / 1024, 1 / 128


@dataclass(frozen=True)
class PairTable:
    """Differences of all (Gaussian, expression) pairs that can move: values [P,59] with the mask multiplied in.

    offsets [N+1] int64: the pairs of Gaussian n are rows offsets[n] to offsets[n+1]; expression [P] int64.
    """

    values: NDArray[np.float32]
    offsets: NDArray[np.int64]
    expression: NDArray[np.int64]

    @property
    def gaussian(self) -> NDArray[np.int64]:
        """[P]: whose the pairs are."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def live_pairs(avatar: Avatar) -> PairTable:
    """The pairs of expressions whose code training saw move.

    The others are never driven: codes are limited to `avatar.code_range` before they reach the differences.
    """
    d = avatar.differences
    expression = d.expression.cpu().long()
    kept = (avatar.code_range.cpu() != 0).any(dim=0)[expression]
    values = (d.mask[:, None] * d.values).detach().cpu()[kept, :SH.stop]
    counts = torch.bincount(d.gaussian.cpu().long()[kept], minlength=avatar.count)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return PairTable(values.numpy(), offsets.numpy(), expression[kept].numpy())


def order_of(player: Player) -> NDArray[np.int64]:
    """[n]: the Gaussians that can be seen, by triangle, so that neighbours follow one another."""
    triangle = player.avatar.binding.triangle.cpu().numpy().astype(np.int64)
    means = player.avatar.neutral.detach().cpu().numpy()[:, MEANS]
    seen = np.flatnonzero(visible_rows(player).cpu().numpy())
    return seen[np.lexsort((means[seen, 0], triangle[seen]))]


@dataclass(frozen=True)
class Rounded:
    """An avatar in whole numbers; rows are the Gaussians `order` [n] of the original.

    neutral [n,14] in units of `scale` STEPS, times 2^coarse [n]; sheen [n,45], the coefficients of higher harmonics,
    likewise along the rows of sheen_axes [45,45]; pairs [P,59] along those of pair_axes [59,59], divided by `reach` [K]
    of their expression (its largest code of training).
    """

    order: NDArray[np.int64]
    coarse: Whole
    scale: float
    neutral: Whole
    sheen: Whole
    sheen_axes: Floats
    pairs: Whole
    pair_axes: Floats
    gaussian: Whole
    expression: Whole
    reach: Floats

    @property
    def neutral_values(self) -> Floats:
        """[n,59]."""
        return np.hstack([self.neutral, self.sheen @ self.sheen_axes]) * self.steps[None] * self.growth[:, None]

    @property
    def pair_values(self) -> Floats:
        """[P,59]."""
        unit = self.growth[self.gaussian] / self.reach[self.expression]
        return (self.pairs @ self.pair_axes) * self.steps[None] * unit[:, None]

    @property
    def steps(self) -> Floats:
        """[59] steps of what is seen best."""
        return self.scale * STEPS

    @property
    def growth(self) -> Floats:
        """[n] how much coarser each Gaussian is."""
        return 2.0 ** self.coarse


def rounded(player: Player, order: NDArray[np.int64], coarse: Whole, scale: float) -> Rounded:
    """The avatar in multiples of `scale` times the smallest steps; differences that become 0 are left out."""
    avatar, pairs = player.avatar, live_pairs(player.avatar)
    place = np.full(avatar.count, -1, np.int64)
    place[order] = np.arange(len(order))
    reach = code_reach(player).abs().amax(dim=0).clamp_min(1e-3).double().numpy()
    steps, growth = scale * STEPS, 2.0 ** coarse
    gaussian = place[pairs.gaussian]
    kept = np.flatnonzero(gaussian >= 0)
    kept = kept[np.argsort(gaussian[kept], kind="stable")]
    gaussian, expression = gaussian[kept], pairs.expression[kept]
    unit = growth[gaussian] / reach[expression]
    numbers, pair_axes = _along_axes(pairs.values[kept] / (steps * unit[:, None]))
    moving = numbers.any(axis=1)
    neutral = avatar.neutral.detach().cpu().numpy()[order, :SH.stop] / (steps * growth[:, None])
    sheen, sheen_axes = _along_axes(neutral[:, REST])
    return Rounded(order, coarse, scale, quantized(neutral[:, :REST.start], 1.0), sheen, sheen_axes, numbers[moving],
                   pair_axes, gaussian[moving], expression[moving], reach)


def _along_axes(rows: Floats) -> tuple[Whole, Floats]:
    """Whole numbers [n,c] and axes [c,c] (orthonormal rows, single precision) whose product is about `rows` [n,c]."""
    axes = np.linalg.eigh(rows.T @ rows)[1].T[::-1].astype(np.float32)
    return quantized(rows @ axes.T, 1.0, DEAD), axes


def rebuilt(player: Player, numbers: Rounded) -> Player:
    """The player of what a browser will read."""
    avatar = player.avatar.to(torch.device("cpu"))
    pad, order = ((0, 0), (0, avatar.neutral.shape[1] - SH.stop)), torch.from_numpy(numbers.order)
    counts = np.bincount(numbers.gaussian, minlength=len(order))
    differences = Differences(
        torch.from_numpy(np.pad(numbers.pair_values, pad)).float(),
        torch.from_numpy(np.concatenate([[0], counts.cumsum()])).int(), torch.from_numpy(numbers.gaussian).int(),
        torch.from_numpy(numbers.expression).int(), torch.ones(len(numbers.pairs)))
    binding, weights, two = avatar.binding, *_binding_numbers(avatar, numbers.order)
    share = torch.from_numpy(two * BARYCENTRIC_STEP).float()
    weight = torch.from_numpy(weights / weights.sum(axis=1, keepdims=True)).float()
    binding = replace(binding, triangle=binding.triangle[order], anchor=binding.anchor[order], weights=weight,
                      barycentric=torch.cat([share, 1 - share.sum(dim=1, keepdim=True)], dim=1))
    small = Avatar(torch.from_numpy(np.pad(numbers.neutral_values, pad)).float(), differences, binding,
                   avatar.part[order], avatar.code_range, sway=avatar.sway)
    other = Player(player.head, small, player.clip, player.sh_degree, player.num_expressions, player.device,
                   player.name)
    other.rig = player.rig
    return other


def base_section(player: Player, numbers: Rounded) -> Section:
    """The neutral face without what light and view do to its colours: enough for a first picture."""
    avatar = player.avatar
    weights, two = _binding_numbers(avatar, numbers.order)
    triangle = avatar.binding.triangle.cpu().numpy().astype(np.int64)[numbers.order]
    _check_room("bones", weights.shape[1], MAX_BONES)
    _check_room("triangles", int(triangle.max(initial=-1)), MAX_TRIANGLES)
    section = Section()
    section.add_whole("triangle", triangle, delta=True)
    section.add_whole("coarse", numbers.coarse)
    section.add_whole("barycentric", two)
    section.add_whole("weights", weights)
    section.add_whole("means", numbers.neutral[:, MEANS] << numbers.coarse[:, None], delta=True)
    section.add_whole("shape", numbers.neutral[:, MEANS.stop:])
    return section


def sheen_section(numbers: Rounded) -> Section:
    """How the neutral colours depend on the view."""
    section = Section()
    section.add_single("sheenAxes", numbers.sheen_axes)
    section.add_whole("sheen", numbers.sheen)
    return section


def pair_section(numbers: Rounded) -> Section:
    """The differences of the expressions, by Gaussian."""
    counts = np.bincount(numbers.gaussian, minlength=len(numbers.order))
    _check_room("expressions of one Gaussian", int(counts.max(initial=0)), MAX_PAIRS)
    section = Section()
    section.add_whole("pairCount", counts)
    section.add_whole("pairExpression", numbers.expression)
    section.add_single("pairAxes", numbers.pair_axes)
    section.add_whole("pairValues", numbers.pairs)
    return section


def _binding_numbers(avatar: Avatar, order: NDArray[np.int64]) -> tuple[Whole, Whole]:
    """Bone weights [n,J] in `WEIGHT_STEP` and the first two barycentrics [n,2] in `BARYCENTRIC_STEP`."""
    binding = avatar.binding
    return (quantized(binding.weights.cpu().numpy()[order], WEIGHT_STEP),
            quantized(binding.barycentric.cpu().numpy()[order, :2], BARYCENTRIC_STEP))


def _check_room(what: str, got: int, room: int) -> None:
    if got > room:
        raise ValueError(f"web: the page has room for {room} {what}, this avatar has {got}")
