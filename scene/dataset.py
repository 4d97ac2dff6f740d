"""One class for the frames of every layout: split, decoding, images as uint8, cameras and codes as tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scene.frame import Camera, Frame
from scene.picture_facts import PictureFacts, picture_facts
from scene.readers.source import Source
from scene.split import IndexArray, Split
from utils.images import ByteImage, read_mask, read_rgb, read_rgba, resize_area, resize_rgba
from utils.parallel import ordered
from utils.processes import local_count

RAM_SHARE = 0.5  # of the machine's memory: what is left must hold the model, its optimiser and the system
DIVISORS = (1, 2, 4, 8)
LEAST_WIDTH = 16  # a smaller flag is a mistaken divisor, not a target width


class Dataset:
    """Frames of one source at one working resolution, split into training and test.

    source: what a reader returned. split: which frames are held out.
    resolution: -1 or 1 full size; 2, 4, 8 divide it; a number from 16 is the target width in pixels.
    cache: "ram" decodes everything now into one [N,H,W,4] array; "stream" decodes on demand (see `prefetch`);
        "auto" chooses "ram" when the array takes at most half of the machine's memory.
    workers: decoding threads (None: one per core, shared with other processes of the run). progress: show a bar while
        decoding. held_out: cache held-out frames too; otherwise `images` of them are black.

    Attributes:
        frame_count, width, height: working size, pixels.
        train_indices, test_indices: int64 arrays, ascending.
        images: uint8 RGBA [N,H,W,4] on the CPU, or None when streaming.
        background: uint8 [H,W,3] at working size, or None (see Source).
        R [N,3,3], t [N,3], K [N,3,3]: float32, cameras at working size.
        shape [N,S], expression [N,E], jaw [N,6], eyes [N,12], eyelids [N,2]: float32, codes of all frames.

    Raises:
        ValueError: a damaged or unsuitable image (named), a split without training frames, an impossible resolution.
    """

    def __init__(
        self, source: Source, split: Split | None = None, resolution: int = -1,
        cache: Literal["auto", "ram", "stream"] = "auto", workers: int | None = None, progress: bool = True,
        held_out: bool = True,
    ) -> None:
        self.frames = source.frames
        self.frame_count = len(source.frames)
        self.train_indices, self.test_indices = (split or Split()).indices(
            self.frame_count, source.default_test_frames
        )
        full = source.frames[0].camera
        self.width, self.height = working_size(full.width, full.height, resolution)
        self.background = None if source.background is None else torch.from_numpy(
            self._fitted(source.background.copy())
        )
        self._stack_tensors()
        workers = workers or max(1, (os.cpu_count() or 1) // local_count())
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._pending: dict[int, Future[ByteImage]] = {}
        self._facts: dict[int, PictureFacts] = {}
        self.images: Tensor | None = None
        if cache == "ram" or (cache == "auto" and self._fits_in_ram()):
            wanted = np.arange(self.frame_count) if held_out else self.train_indices
            self.images = torch.from_numpy(self._decode_all(wanted, workers, progress))

    def rgba(self, index: int) -> ByteImage:
        """Image of one frame, uint8 [H,W,4], colour not premultiplied; alpha is the head mask."""
        if self.images is not None:
            return self.images[index].numpy()
        future = self._pending.pop(int(index), None)
        return future.result() if future is not None else self._decode(int(index))

    def rgba_batch(self, indices: Sequence[int] | IndexArray) -> Tensor:
        """Images of several frames, uint8 [B,H,W,4] on the CPU."""
        if self.images is not None:
            return self.images[torch.as_tensor(np.asarray(indices, dtype=np.int64))]
        self.prefetch(indices)
        return torch.from_numpy(np.stack([self.rgba(index) for index in indices]))

    def facts(self, indices: Sequence[int] | IndexArray) -> list[PictureFacts]:
        """What is known of the pictures of some frames; they are decoded for it only when streaming."""
        wanted = [int(index) for index in indices]
        missing = [index for index in wanted if index not in self._facts]
        self.prefetch(missing)
        for index in missing:
            self._facts[index] = picture_facts(self.rgba(index))
        return [self._facts[index] for index in wanted]

    def prefetch(self, indices: Sequence[int] | IndexArray) -> None:
        """Start decoding frames that will be asked for soon. Does nothing when all images are in memory.

        Decoded frames wait in memory until `rgba` or `rgba_batch` takes them, so ask for a few batches at most.
        """
        if self.images is not None:
            return
        for index in map(int, indices):
            if index not in self._pending:
                self._pending[index] = self._pool.submit(self._decode, index)

    def camera(self, index: int) -> Camera:
        """Camera of one frame at working size."""
        return self.frames[index].camera.resized(self.width, self.height)

    def _stack_tensors(self) -> None:
        cameras = [self.camera(i) for i in range(self.frame_count)]
        codes = [frame.tracking for frame in self.frames]
        self.R, self.t, self.K = (_stacked(cameras, name) for name in ("R", "t", "K"))
        self.shape, self.expression = _stacked(codes, "shape"), _stacked(codes, "expression")
        self.jaw, self.eyes, self.eyelids = (_stacked(codes, name) for name in ("jaw", "eyes", "eyelids"))

    def _fits_in_ram(self) -> bool:
        return self.frame_count * self.height * self.width * 4 <= RAM_SHARE * _physical_memory() / local_count()

    def _decode_all(self, wanted: IndexArray, workers: int, progress: bool) -> ByteImage:
        images = np.zeros((self.frame_count, self.height, self.width, 4), np.uint8)

        def decode(number: int) -> None:
            index = int(wanted[number])
            images[index] = self._decode(index)
            self._facts[index] = picture_facts(images[index])

        done = ordered(decode, len(wanted), workers)
        for _ in tqdm(done, "Reading images", len(wanted), unit="img", disable=not progress):
            pass
        return images

    def _decode(self, index: int) -> ByteImage:
        frame = self.frames[index]
        if frame.mask_path is None:
            rgba = read_rgba(frame.image_path)
            _check_size(rgba, frame)
            return rgba if self._is_full(rgba) else resize_rgba(rgba, self.width, self.height)
        # The target is the whole photograph: colour outside the mask counts, so it is not weighted by alpha.
        rgba = np.dstack([read_rgb(frame.image_path), read_mask(frame.mask_path)])
        _check_size(rgba, frame)
        return self._fitted(rgba)

    def _fitted(self, image: ByteImage) -> ByteImage:
        return image if self._is_full(image) else resize_area(image, self.width, self.height)

    def _is_full(self, image: ByteImage) -> bool:
        return image.shape[:2] == (self.height, self.width)


def working_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """(width, height) to train at, for images of width x height and the flag `resolution` (see Dataset).

    Raises:
        ValueError: none of -1, 1, 2, 4, 8, and no width from 16 pixels up to the images' own.
    """
    if resolution in (-1, *DIVISORS):
        divisor = abs(resolution)
        return max(1, round(width / divisor)), max(1, round(height / divisor))
    if not LEAST_WIDTH <= resolution <= width:
        raise ValueError(f"resolution: -1, 1, 2, 4, 8, or a target width from {LEAST_WIDTH} up to the images' {width} "
                         f"pixels expected, got {resolution}")
    return resolution, max(1, round(height * resolution / width))


def _check_size(rgba: ByteImage, frame: Frame) -> None:
    wanted = (frame.camera.height, frame.camera.width)
    if rgba.shape[:2] != wanted:  # the file changed since its header was read
        raise ValueError(f"{frame.image_path}: {wanted[1]} x {wanted[0]} pixels expected, "
                         f"got {rgba.shape[1]} x {rgba.shape[0]}")


def _stacked(records: Sequence[object], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(record, name) for record in records]))


def _physical_memory() -> float:
    """Bytes of memory in this machine; infinite where the system does not tell (Windows)."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
