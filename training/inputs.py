"""What changes from step to step, at fixed places on the device, so that a captured step finds it there."""

from __future__ import annotations

import torch
from blendshape_ops import WIDTH
from torch import Tensor

from arguments import OptimizationSettings
from scene.dataset import Dataset
from scene.recording import IndexArray
from scene.schema import learning_rates
from scene.size_sampler import Sampler
from training.targets import Targets
from training.team import Share

STEPS_AHEAD = 64  # whose frame numbers and learning rates are sent to the device at once


class StepInputs:
    """Frame numbers [B] int64, target pictures [b,H,W,4] uint8, and learning rates [2,60] float64 of one step.

    `own_frames` [b] are those of the B that this process draws: all, unless several share the batch. Row 0 of `rates`
    belongs to the neutral table, row 1 to the differences. `size` (width, height) is that of this step's pictures; each
    size that the data set has keeps a place of its own.
    """

    def __init__(self, settings: OptimizationSettings, share: Share, dataset: Dataset, device: torch.device) -> None:
        self._settings, self._share, self._device, self._dataset = settings, share, device, dataset
        self.frames = torch.zeros(settings.batch_size, dtype=torch.int64, device=device)
        self.own_frames = self.frames[share.own]
        self.rates = torch.zeros(2, WIDTH, dtype=torch.float64, device=device)
        self._rgba = {size: torch.zeros(share.count, size[1], size[0], 4, dtype=torch.uint8, device=device)
                      for size in dataset.sizes}
        self.size = dataset.sizes[0]
        self.forget()

    @property
    def rgba(self) -> Tensor:
        """The target pictures of this step."""
        return self._rgba[self.size]

    def forget(self) -> None:
        """To be called when the next iteration does not follow the last one (a checkpoint was restored)."""
        self._first = self._end = 0
        self._frame_plan = self._rate_plan = torch.empty(0)

    def load(self, iteration: int, sampler: Sampler, targets: Targets) -> None:
        """Draw the next batch and make everything of this iteration ready, without waiting for the device."""
        if not self._first <= iteration < self._end:
            self._plan(iteration, sampler)
        drawn = sampler.next()
        self.size = self._dataset.size(drawn[0])
        self.frames.copy_(self._frame_plan[iteration - self._first])
        self.rates.copy_(self._rate_plan[iteration - self._first])
        targets.fill(self.rgba, drawn[self._share.own], self.own_frames, _Upcoming(sampler, self._share))

    def _plan(self, first: int, sampler: Sampler) -> None:
        self._first, self._end = first, first + STEPS_AHEAD
        frames = torch.from_numpy(sampler.peek(STEPS_AHEAD * len(self.frames)))
        self._frame_plan = self._sent(frames.view(STEPS_AHEAD, -1))
        rates = [torch.stack(learning_rates(self._settings, i)) for i in range(first, self._end)]
        self._rate_plan = self._sent(torch.stack(rates).double())

    def _sent(self, values: Tensor) -> Tensor:
        if self._device.type == "cuda":
            values = values.pin_memory()
        return values.to(self._device, non_blocking=True)


class _Upcoming:
    """The frames that a process will draw, of all that `sampler` will."""

    def __init__(self, sampler: Sampler, share: Share) -> None:
        self._sampler, self._share = sampler, share

    def peek(self, count: int) -> IndexArray:
        """The next `count` of them."""
        batches, size = -(-count // self._share.count), self._sampler.batch_size
        coming = self._sampler.peek(batches * size).reshape(batches, size)
        return coming[:, self._share.own].ravel()[:count]
