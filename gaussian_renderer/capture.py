"""A computation captured as a CUDA graph, so that the host launches a whole step at once."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

import torch
from diff_gaussian_rasterization import list_usage

Result = TypeVar("Result")
SPARE_BYTES = 2**29  # reserved beyond what is in use; a graph dropped and the one after it take less
WARM_UP = 2  # eager runs before a capture: they fill caches whose filling would wait for the device


class CapturedStep(Generic[Result]):
    """Runs `compute()`, which reads and writes tensors at fixed places: eagerly at first, then as a replayed graph.

    A run with another `key` than the last (another variant of the computation), or after `drop()` (other tensors),
    starts again with `WARM_UP` eager runs, unless the caches are said to be warm. Results of a replay are overwritten
    by the next one. The rasterizer's lists keep in a graph the room that they had at its capture; when a later pass
    needs more (its pixels stay right, but are found slowly), the graph is dropped too. Where `compute` talks to other
    processes, all of them must capture at the same time; `agree` then says whether any of them needs more room.
    """

    def __init__(self, compute: Callable[[], Result], picture: tuple[torch.device, int, int, int],
                 agree: Callable[[bool], int] = bool) -> None:
        """`picture`: device, batch size, width and height of the rasterizer's passes in `compute`."""
        self._compute, self._picture, self._agree = compute, picture, agree
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Result | None = None
        self._key: Hashable = None
        self._room = 0
        self._eager_runs = 0
        self.captures = 0

    def drop(self, warm: bool = False) -> None:
        """Forget the captured graph; tensors that it used may go away.

        warm: no cache is empty, so that the next run of the same variant may be captured at once.
        """
        device = self._picture[0]
        self._graph = self._result = None
        self._eager_runs = WARM_UP if warm else 0
        # A graph's memory stays reserved after it, and the next one takes its own. Giving it back waits for the device.
        if torch.cuda.memory_reserved(device) > torch.cuda.memory_allocated(device) + SPARE_BYTES:
            torch.cuda.empty_cache()

    def run(self, key: Hashable) -> Result:
        """One run of the variant `key`."""
        with torch.cuda.device(self._picture[0]):
            return self._run(key)

    def _run(self, key: Hashable) -> Result:
        outgrown = self._agree(self._graph is not None and list_usage(*self._picture)[0] > self._room)
        if key != self._key or outgrown:
            self.drop()
        self._key = key
        if self._graph is None:
            if self._eager_runs < WARM_UP:
                self._eager_runs += 1
                return self._compute()
            self._capture()
        assert self._graph is not None and self._result is not None
        self._graph.replay()
        return self._result

    def _capture(self) -> None:
        graph, stream = torch.cuda.CUDAGraph(), _stream(self._picture[0])
        current = torch.cuda.current_stream(self._picture[0])
        stream.wait_stream(current)
        # torch.cuda.graph would collect garbage and empty the allocator's cache, which takes longer than the capture.
        with torch.cuda.stream(stream):
            collects = gc.isenabled()
            gc.disable()  # garbage may hold an older graph, whose destruction would invalidate this capture
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._result = self._compute()
            finally:
                graph.capture_end()
                if collects:
                    gc.enable()
        current.wait_stream(stream)
        self._graph = graph
        self._room = list_usage(*self._picture)[1]
        self.captures += 1


class _Streams(threading.local):
    """Those of one thread."""

    def __init__(self) -> None:
        self.of: dict[torch.device, torch.cuda.Stream] = {}


_streams = _Streams()


def _stream(device: torch.device) -> torch.cuda.Stream:
    """Where this thread captures. cuBLAS keeps tens of MiB for each stream it ever worked on, here in the memory of the
    graph that was captured: with a new stream for every capture all 32 of torch would have theirs in the end.
    """
    if device not in _streams.of:
        _streams.of[device] = torch.cuda.Stream(device)
    return _streams.of[device]


class CapturedSizes(Generic[Result]):
    """A `CapturedStep` for each size of pictures (width, height): a graph has fixed shapes."""

    def __init__(self, compute: Callable[[], Result], device: torch.device, batch: int,
                 sizes: Iterable[tuple[int, int]], agreement: Callable[[], Callable[[bool], int]] = lambda: bool,
                 ) -> None:
        """`agreement` makes what each of them takes as `agree`."""
        self._steps = {size: CapturedStep(compute, (device, batch, *size), agreement()) for size in sizes}

    @property
    def captures(self) -> int:
        """How many graphs were captured."""
        return sum(step.captures for step in self._steps.values())

    def drop(self, warm: bool = False) -> None:
        """`CapturedStep.drop` of all sizes."""
        for step in self._steps.values():
            step.drop(warm)

    def run(self, size: tuple[int, int], key: Hashable) -> Result:
        """One run of the variant `key` with pictures of a size."""
        return self._steps[size].run(key)
