"""Where the target pictures wait: on the device when they fit, otherwise streamed to it ahead of their use."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from scene.dataset import Dataset
from scene.recording import IndexArray

DEVICE_SHARE = 0.25  # of the device's free memory: densification multiplies the model, which must still fit


class Upcoming(Protocol):
    """Knows which frames will be drawn."""

    def peek(self, count: int) -> IndexArray:
        """The next `count` frames."""
        ...


class Targets(Protocol):
    """Hands out batches of target pictures, each of pictures of one size."""

    def fill(self, out: Tensor, frames: IndexArray, index: Tensor, coming: Upcoming) -> None:
        """Write the pictures of `frames` [B] to `out`, uint8 RGBA [B,H,W,4].

        index: `frames` on the device of `out`. coming: what will be asked for after `frames`.
        """
        ...


class ResidentTargets:
    """The decoded pictures of a data set that train, on one device; a batch is a gather there."""

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        assert dataset.images_by_size is not None
        place = torch.zeros(dataset.frame_count, dtype=torch.int64)
        self._images = {}
        for frames in dataset.by_size(dataset.train_indices):
            place[torch.from_numpy(frames)] = torch.arange(len(frames))
            width, height = dataset.size(frames[0])
            pictures = torch.empty(len(frames), height, width, 4, dtype=torch.uint8, device=device)
            for picture, frame in zip(pictures, frames, strict=True):  # one by one: a batch would be copied here first
                picture.copy_(torch.from_numpy(dataset.rgba(frame)))
            self._images[pictures.shape[1:]] = _whole_pixels(pictures)
        self._place = place.to(device)

    def fill(self, out: Tensor, frames: IndexArray, index: Tensor, coming: Upcoming) -> None:
        """See Targets."""
        torch.index_select(self._images[out.shape[1:]], 0, self._place[index], out=_whole_pixels(out))


def _whole_pixels(images: Tensor) -> Tensor:
    """The same memory as [N,H*W] int32: a gather moves four bytes a thread."""
    return images.view(torch.int32).flatten(1)


class StreamedTargets:
    """Pictures copied from pinned memory on a stream of their own while the step before is computed."""

    def __init__(self, dataset: Dataset, device: torch.device) -> None:
        self._dataset, self._device = dataset, device
        self._stream = torch.cuda.Stream(device)
        self._ahead: tuple[IndexArray, Tensor] | None = None

    def fill(self, out: Tensor, frames: IndexArray, index: Tensor, coming: Upcoming) -> None:
        """See Targets."""
        count = len(frames)
        following = coming.peek(3 * count)
        self._dataset.prefetch(following)
        if self._ahead is None or not np.array_equal(self._ahead[0], frames):
            self._ahead = frames, self._copy(frames)
        ready = self._ahead[1]
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        out.copy_(ready)
        ready.record_stream(current)
        self._ahead = following[:count], self._copy(following[:count])

    def _copy(self, frames: IndexArray) -> Tensor:
        pinned = self._dataset.rgba_batch(frames).pin_memory()
        with torch.cuda.stream(self._stream):
            return pinned.to(self._device, non_blocking=True)


class HostTargets:
    """Pictures for a training run on the CPU."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def fill(self, out: Tensor, frames: IndexArray, index: Tensor, coming: Upcoming) -> None:
        """See Targets."""
        self._dataset.prefetch(coming.peek(2 * len(frames)))
        out.copy_(self._dataset.rgba_batch(frames))


def choose_targets(dataset: Dataset, device: torch.device, where: Literal["auto", "gpu", "host"]) -> Targets:
    """Resident on a GPU or streamed to it (`where`; auto: resident when a quarter of its free memory suffices).

    ValueError for `gpu` where the data set is streamed from the disk.
    """
    if device.type != "cuda":
        return HostTargets(dataset)
    free, _ = torch.cuda.mem_get_info(device)
    if where == "gpu" and dataset.images_by_size is None:
        raise ValueError("--targets gpu: the images are streamed from the disk (--cache); use --cache ram")
    if dataset.images_by_size is None or where == "host":
        return StreamedTargets(dataset, device)
    if where == "auto" and dataset.decoded_bytes(dataset.train_indices) > DEVICE_SHARE * free:
        return StreamedTargets(dataset, device)
    return ResidentTargets(dataset, device)
