"""The order of training where pictures differ in size: every batch is of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scene.dataset import Dataset
from scene.recording import IndexArray
from scene.split import EpochSampler


class SizeSampler:
    """Endless batches of indices, each from one of several groups in turn, as often as the group is large.

    Within a group as `EpochSampler`. Which group's turn it is follows from the number of batches so far: the one that
    is farthest behind its share of the pictures. Raises ValueError as `EpochSampler` does.
    """

    def __init__(self, groups: Sequence[IndexArray], batch_size: int, seed: int) -> None:
        self._parts = [EpochSampler(group, batch_size, seed) for group in groups]
        self.batch_size = batch_size
        self._share = np.array([len(group) for group in groups]) / sum(len(group) for group in groups)
        self._batches = np.zeros(len(groups), np.int64)

    @property
    def drawn(self) -> int:
        """How many indices were drawn."""
        return int(self._batches.sum()) * self.batch_size

    def next(self) -> IndexArray:
        """The next batch [batch_size]."""
        turn = self._turn(self._batches)
        self._batches[turn] += 1
        return self._parts[turn].next()

    def peek(self, count: int) -> IndexArray:
        """The next `count` indices, a multiple of the batch size, without drawing them."""
        ahead, found = self._batches.copy(), []
        for _ in range(count // self.batch_size):
            turn = self._turn(ahead)
            ahead[turn] += 1
            found.append((turn, int(ahead[turn] - self._batches[turn])))
        parts = [part.peek(int(more) * self.batch_size).reshape(-1, self.batch_size)
                 for part, more in zip(self._parts, ahead - self._batches, strict=True)]
        return np.concatenate([parts[turn][number - 1] for turn, number in found])

    def state_dict(self) -> dict[str, int]:
        """JSON-able state: pass it to `load_state_dict` of a sampler over the same groups."""
        first = self._parts[0].state_dict()
        return {"seed": first["seed"], "drawn": self.drawn,
                "count": sum(len(part.indices) for part in self._parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken. Raises ValueError when it was taken over another number of frames."""
        count = sum(len(part.indices) for part in self._parts)
        if state["count"] != count:
            raise ValueError(f"sampler state: it was saved over {state['count']} training frames, "
                             f"but there are {count} now")
        self._batches[:] = 0
        for _ in range(int(state["drawn"]) // self.batch_size):
            self._batches[self._turn(self._batches)] += 1
        for part, batches in zip(self._parts, self._batches, strict=True):
            part.load_state_dict({"seed": state["seed"], "drawn": int(batches) * self.batch_size,
                                  "count": len(part.indices)})

    def _turn(self, batches: IndexArray) -> int:
        return int(np.argmax(self._share * (batches.sum() + 1) - batches))


Sampler = EpochSampler | SizeSampler


def training_sampler(dataset: Dataset, batch_size: int, seed: int) -> Sampler:
    """What draws the training frames of a data set. Raises ValueError as `EpochSampler` does."""
    groups = dataset.by_size(dataset.train_indices)
    return SizeSampler(groups, batch_size, seed) if len(groups) > 1 else EpochSampler(groups[0], batch_size, seed)
