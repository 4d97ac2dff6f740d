"""What the processes of a team tell each other in a step, so that all make the same update from the whole batch.

Every process draws its share of the batch with its own copy of the avatar. The gradient of the neutral table and of
extra parameters is summed. That of the differences is never formed, let alone exchanged: its factors are (`Factors` of
blendshape_ops), those of Gaussians that have differences, from every process, and each process then steps the whole
table by all of them. docs/scale.md has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from blendshape_ops import FactoredAdam, Factors
from torch import Tensor

from gaussian_renderer import DensifyStats
from scene.avatar import Avatar
from training.team import Share, Team


class Exchange:
    """The exchange of one team for batches of `batch` frames. Alone it changes nothing."""

    def __init__(self, team: Team, batch: int) -> None:
        self.team, self.batch, self.share = team, batch, team.share(batch)
        self._rows: Tensor | None = None

    def adopt(self, optimizer: FactoredAdam) -> None:
        """From now on these tables are exchanged. Call it whenever their rows changed; it waits for the device."""
        if self.team.size > 1:
            optimizer.factored, self._rows = optimizer.differences.with_pairs()

    def weighted(self, loss: Tensor) -> Tensor:
        """The part in the batch's loss of a loss that is a mean over this process's frames, or depends on none."""
        return loss if self.team.size == 1 else loss * self.share.weight

    def average(self, values: Tensor) -> Tensor:
        """Means over the frames of the batch, from those over this process's frames."""
        return self.team.sum(self.weighted(values))

    def gradients(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of parameters that all processes have, summed over the batch."""
        if self.team.size == 1:
            return list(gradients)
        # Copies: two gradients of one backward pass may share memory, or repeat one number.
        copies = [None if each is None else each.clone(memory_format=torch.contiguous_format) for each in gradients]
        return [None if each is None else self.team.sum(each) for each in copies]

    def rows(self, own: Tensor) -> Tensor:
        """Rows [B,...] for all frames of the batch, from those [b,...] of each process's frames."""
        if self.team.size == 1:
            return own
        rows = own.new_zeros(self.batch, *own.shape[1:])
        rows[self.share.own] = own
        return self.team.sum(rows)

    def factors(self, optimizer: FactoredAdam) -> None:
        """Put the factors of the whole batch where `optimizer` looks for them, from those of this process's frames."""
        if self.team.size == 1 or not optimizer.differences.factors:
            return
        own, rows = optimizer.differences.factors, self._rows
        assert len(own) == 1 and rows is not None
        optimizer.factored.factors[:] = [gathered(own[0], rows, self.share, self.team)] if len(rows) else []
        own.clear()

    def stats(self, stats: DensifyStats) -> DensifyStats:
        """The statistics of all frames, from those of each process's frames; copies."""
        if self.team.size == 1:
            return stats
        return DensifyStats(self.team.sum(stats.grad_sum.clone()), self.team.sum(stats.count.clone()),
                            self.team.largest(stats.max_radius.clone()))

    def require_same(self, avatar: Avatar) -> None:
        """TeamError unless all processes have the same tables, bit by bit. Waits for the device."""
        if self.team.size > 1:
            tables = (avatar.neutral, avatar.differences.values)
            bits = [int(table.detach().view(torch.int32).sum(dtype=torch.int64)) for table in tables]
            self.team.require_equal("the avatar (Gaussians, differences, their bits)", (*map(len, tables), *bits))


def gathered(own: Factors, rows: Tensor, share: Share, team: Team) -> Factors:
    """Factors of a team's whole batch for Gaussians `rows` [M] (int64), from those [b,N] of this process's frames.

    Each process sends as many frames as the one with most has, so that all shapes agree; what it lacks is zero, which
    adds nothing to a gradient.
    """
    def send(values: Tensor, rows: Tensor | None) -> Tensor:
        values = values.detach()  # codes that are refined belong to the graph of this process's frames
        picked = values if rows is None else values.index_select(1, rows)
        if share.count < share.largest:
            picked = torch.cat([picked, picked.new_zeros(share.largest - share.count, *picked.shape[1:])])
        return team.gather(picked)

    chosen = None if len(rows) == own.v_rgb.shape[1] else rows
    return replace(own, v_geometry=send(own.v_geometry, chosen), v_rgb=send(own.v_rgb, chosen),
                   directions=send(own.directions, chosen), beta=send(own.beta, None))
