"""Which frames train and which test, and the order in which training frames are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scene.recording import AUTO, IndexArray, Recording

LARGEST_TEST = 350  # frames that a clip holds out at most where its layout's convention does not apply


def default_test_count(frame_count: int, convention: int) -> int:
    """How many frames a clip holds out if nobody says: never more than a fifth.

    The layout's convention (350, or 500) where it is no more than a fifth, as in the clips that the published figures
    are for; otherwise a fifth, at most 350.
    """
    fifth = frame_count // 5
    return convention if convention <= fifth else min(LARGEST_TEST, fifth)


def describe_split(train: IndexArray, test: IndexArray, recording: Recording | None = None) -> str:
    """One line: how many frames train, how many are held out, and which; with several cameras also of what kind."""
    if len(test) == 0:
        return f"{len(train)} frames train, none held out"
    if recording is None or not recording.several:
        last = len(train) + len(test) - 1
        return f"{len(train)} frames train, {len(test)} held out ({_in_words(test)} of 0 to {last})"
    moments = np.setdiff1d(recording.time, recording.time[train])
    cameras = [name for number, name in enumerate(recording.cameras) if number not in recording.view[train]]
    which = [f"moments {_in_words(moments)} of 0 to {recording.moments - 1}"] if len(moments) else []
    which += [f"of {len(recording.cameras)} cameras {', '.join(cameras)}"] if cameras else []
    parts = [f"{len(frames)} {name.replace('_', ' ')}" for name, frames in recording.parts(train, test).items()]
    return f"{len(train)} frames train, {len(test)} held out ({'; '.join(which)}): {', '.join(parts)}"


def _in_words(frames: IndexArray) -> str:
    """Ascending frames as runs of neighbours, in words."""
    starts = np.flatnonzero(np.diff(frames, prepend=-2) > 1)
    runs = [f"{frames[a]} to {frames[b - 1]}" for a, b in zip(starts, [*starts[1:], len(frames)], strict=True)]
    return ", ".join(runs[:6]) + (", ..." if len(runs) > 6 else "")


@dataclass(frozen=True)
class Split:
    """A rule for holding out test frames.

    kind: "tail" holds out the last frames; "blocks" holds out equally long runs of frames spread evenly over the
    clip, each between training frames, so that the test stays inside the range of training.
    test_frames: how many frames to hold out; None: see `default_test_count`.
    blocks: number of runs ("blocks" only).
    cameras: names of cameras to hold out altogether; see `Recording.held_out_cameras`.

    With several cameras the rule holds out moments, and frames of them are those of all cameras at that moment.
    """

    kind: Literal["tail", "blocks"] = "tail"
    test_frames: int | None = None
    blocks: int = 5
    cameras: tuple[str, ...] = (AUTO,)

    def of(self, recording: Recording, default_test_frames: int) -> tuple[IndexArray, IndexArray]:
        """(train, test) frames of a recording, both ascending. Raises ValueError as `indices` does."""
        moments = self.indices(recording.moments, default_test_frames)[0]
        cameras = sorted(recording.held_out_cameras(self.cameras))
        trains = np.isin(recording.time, moments) & ~np.isin(recording.view, cameras)
        if not trains.any():
            raise ValueError("no training frames left: the cameras that train have no picture of the moments that do; "
                             "hold out fewer with --test_frames or --test_cameras")
        return np.flatnonzero(trains), np.flatnonzero(~trains)

    def indices(self, frame_count: int, default_test_frames: int) -> tuple[IndexArray, IndexArray]:
        """(train, test), both ascending, together 0 .. frame_count - 1.

        Raises:
            ValueError: an unknown kind, a negative number, or a number of test frames that leaves too few frames for
                training (none; for "blocks" fewer than one between any two runs).
        """
        test_count = self._test_count(frame_count, default_test_frames)
        held_out = np.zeros(frame_count, dtype=bool)
        if self.kind == "tail":
            held_out[frame_count - test_count:] = True
        else:
            for start, stop in self._runs(frame_count, test_count):
                held_out[start:stop] = True
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)

    def _test_count(self, frame_count: int, default: int) -> int:
        if self.kind not in ("tail", "blocks"):
            raise ValueError(f"split kind {self.kind!r} is unknown; known are tail, blocks")
        count = default_test_count(frame_count, default) if self.test_frames is None else self.test_frames
        if count < 0:
            raise ValueError(f"test frames: 0 or more expected, got {count}")
        if count >= frame_count:
            raise ValueError(
                f"no training frames left: the data set has {frame_count} frames and {count} of them are held out "
                f"for testing; hold out fewer with --test_frames (for instance --test_frames {frame_count // 5})"
            )
        return count

    def _runs(self, frame_count: int, test_count: int) -> list[tuple[int, int]]:
        """Test runs as [start, stop), between blocks + 1 runs of training frames of nearly equal length."""
        train_count = frame_count - test_count
        if test_count == 0:
            return []
        if not 1 <= self.blocks <= min(test_count, train_count - 1):
            raise ValueError(
                f"test blocks: {self.blocks} blocks of test frames do not fit: the data set has {frame_count} frames, "
                f"{test_count} of them for testing, and training frames must lie before, between and after blocks"
            )
        tests, gaps = _even_parts(test_count, self.blocks), _even_parts(train_count, self.blocks + 1)
        starts = np.cumsum(gaps[:-1]) + np.concatenate([[0], np.cumsum(tests[:-1])])
        return [(int(start), int(start + length)) for start, length in zip(starts, tests, strict=True)]


def _even_parts(total: int, parts: int) -> IndexArray:
    """`parts` whole numbers with sum `total` that differ by at most 1."""
    edges = np.arange(parts + 1) * total // parts
    return np.diff(edges)


class EpochSampler:
    """Endless batches of indices: every epoch is a fresh shuffle, drawn without replacement.

    The order depends on (seed, epoch) alone, so the state is the number of indices drawn so far, and a restored
    sampler continues exactly. A batch that reaches the end of an epoch is filled up from the next one.

    Raises:
        ValueError: no indices, or a batch size below 1.
    """

    def __init__(self, indices: IndexArray, batch_size: int, seed: int) -> None:
        if len(indices) == 0:
            raise ValueError("cannot sample from 0 frames")
        if batch_size < 1:
            raise ValueError(f"batch size: 1 or more expected, got {batch_size}")
        self.indices = np.asarray(indices, dtype=np.int64)
        self.batch_size = batch_size
        self.seed = seed
        self.drawn = 0
        self._epoch = -1
        self._order = self.indices

    def next(self) -> IndexArray:
        """The next batch [batch_size]."""
        batch = self.peek(self.batch_size)
        self.drawn += self.batch_size
        return batch

    def peek(self, count: int) -> IndexArray:
        """The next `count` indices, without drawing them (for prefetching)."""
        return np.array([self._at(position) for position in range(self.drawn, self.drawn + count)], dtype=np.int64)

    def state_dict(self) -> dict[str, int]:
        """JSON-able state: pass it to `load_state_dict` of a sampler over the same indices."""
        return {"seed": self.seed, "drawn": self.drawn, "count": len(self.indices)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken. Raises ValueError when it was taken over another number of frames."""
        if state["count"] != len(self.indices):
            raise ValueError(f"sampler state: it was saved over {state['count']} training frames, "
                             f"but there are {len(self.indices)} now")
        self.seed, self.drawn = int(state["seed"]), int(state["drawn"])
        self._epoch = -1

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, len(self.indices))
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.indices)
            self._epoch = epoch
        return int(self._order[place])
