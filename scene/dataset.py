"""One class for the frames of every layout: split, decoding, images as uint8, cameras and codes as tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scene.frame import Camera, Frame
from scene.picture_facts import PictureFacts, picture_facts
from scene.readers.source import Source
from scene.recording import IndexArray, Recording
from scene.split import Split
from utils.images import ByteImage, Size, read_mask, read_rgb, read_rgba, resize_area, resize_rgba, with_alpha
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
        frames, frame_count: camera after camera, each in the order of time, whatever their order in the source.
        recording: which frame shows which moment, by which camera.
        sizes: working sizes that occur, (width, height) in pixels; `size` says which is whose.
        width, height: the size that there is, or the raster into which pictures of every size fit.
        train_indices, test_indices: int64 arrays, ascending.
        images_by_size: uint8 RGBA [n,H,W,4] of each size, on the CPU, in the order of frames; None when streaming.
        place: int64 [N], where a frame's picture is among those of its size.
        background: uint8 [H,W,3] at working size, or None (see Source).
        R [N,3,3], t [N,3], K [N,3,3]: float32, cameras at working size.
        shape [N,S], expression [N,E], jaw [N,6], eyes [N,12], eyelids [N,2]: float32, codes of all frames.
        neck: float32 [N,6], or None where the data set tracks none.

    Raises:
        ValueError: a damaged or unsuitable image (named), a split without training frames, an impossible resolution,
            a source that is not complete (see `Source.completed`).
    """

    def __init__(
        self, source: Source, split: Split | None = None, resolution: int = -1,
        cache: Literal["auto", "ram", "stream"] = "auto", workers: int | None = None, progress: bool = True,
        held_out: bool = True,
    ) -> None:
        if source.pending is not None:
            raise ValueError("the source is not complete: Source.completed takes the head model")
        self.frames = _camera_after_camera(source.frames)
        self.frame_count = len(self.frames)
        self.recording = Recording.of(self.frames)
        self.train_indices, self.test_indices = (split or Split()).of(self.recording, source.default_test_frames)
        self._arrange(resolution)
        if source.background is not None and (self.recording.several or len(self.sizes) > 1):
            raise ValueError(f"{self.frames[0].image_path}: whole photographs over one background are read from one "
                             "camera; pictures of several need an alpha channel")
        self.background = None if source.background is None else torch.from_numpy(
            resized(source.background.copy(), (self.width, self.height))
        )
        self._stack_tensors()
        workers = workers or max(1, (os.cpu_count() or 1) // local_count())
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._pending: dict[int, Future[ByteImage]] = {}
        self._facts: dict[int, PictureFacts] = {}
        self.images_by_size: dict[Size, Tensor] | None = None
        if cache == "ram" or (cache == "auto" and self._fits_in_ram()):
            wanted = np.arange(self.frame_count) if held_out else self.train_indices
            images = self._decode_all(wanted, workers, progress)
            self.images_by_size = {size: torch.from_numpy(array) for size, array in images.items()}

    @property
    def images(self) -> Tensor | None:
        """All pictures, uint8 RGBA [T,H,W,4]; None when streaming, or where they are of several sizes."""
        return self.images_by_size[self.sizes[0]] if self.images_by_size and len(self.sizes) == 1 else None

    def size(self, index: int) -> Size:
        """Working size of one frame: width, height."""
        return self.sizes[self._size_number[index]]

    def decoded_bytes(self, indices: Iterable[int]) -> int:
        """What the pictures of some frames take as uint8 RGBA."""
        return sum(4 * width * height for width, height in map(self.size, indices))

    def by_size(self, indices: Sequence[int] | IndexArray) -> list[IndexArray]:
        """`indices`, divided into those of one size each; order is kept."""
        index = np.asarray(indices, np.int64)
        parts = [index[self._size_number[index] == number] for number in range(len(self.sizes))]
        return [part for part in parts if len(part)]

    def rgba(self, index: int) -> ByteImage:
        """Image of one frame, uint8 [H,W,4], colour not premultiplied; alpha is the head mask."""
        if self.images_by_size is not None:
            return self.images_by_size[self.size(index)][self.place[index]].numpy()
        future = self._pending.pop(int(index), None)
        return future.result() if future is not None else self._decode(int(index))

    def rgba_batch(self, indices: Sequence[int] | IndexArray) -> Tensor:
        """Images of several frames of one size, uint8 [B,H,W,4] on the CPU."""
        if self.images_by_size is not None:
            index = np.asarray(indices, dtype=np.int64)
            return self.images_by_size[self.size(index[0])][torch.from_numpy(self.place[index])]
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
        if self.images_by_size is not None:
            return
        for index in map(int, indices):
            if index not in self._pending:
                self._pending[index] = self._pool.submit(self._decode, index)

    def camera(self, index: int) -> Camera:
        """Camera of one frame at working size."""
        return self.frames[index].camera.resized(*self.size(index))

    @property
    def K_in_window(self) -> Tensor:  # noqa: N802 (a name of the mathematics)
        """K [N,3,3] of pictures that lie in the middle of width x height pixels: `K` where all have one size."""
        if len(self.sizes) == 1:
            return self.K
        fitted = [self.camera(index).fitted(self.width, self.height) for index in range(self.frame_count)]
        return _stacked(fitted, "K")

    def _arrange(self, resolution: int) -> None:
        """Working sizes, and which frame's picture is where."""
        sizes = [working_size(f.camera.width, f.camera.height, resolution) for f in self.frames]
        self.sizes = tuple(dict.fromkeys(sizes))
        self.width, self.height = (max(side) for side in zip(*self.sizes, strict=True))
        self._size_number = np.array([self.sizes.index(size) for size in sizes])
        self.place = np.zeros(self.frame_count, np.int64)
        for number in range(len(self.sizes)):
            mine = self._size_number == number
            self.place[mine] = np.arange(np.count_nonzero(mine))

    def _stack_tensors(self) -> None:
        cameras = [self.camera(i) for i in range(self.frame_count)]
        codes = [frame.tracking for frame in self.frames]
        self.R, self.t, self.K = (_stacked(cameras, name) for name in ("R", "t", "K"))
        self.shape, self.expression = _stacked(codes, "shape"), _stacked(codes, "expression")
        self.jaw, self.eyes, self.eyelids = (_stacked(codes, name) for name in ("jaw", "eyes", "eyelids"))
        self.neck = None if codes[0].neck is None else _stacked(codes, "neck")

    def _fits_in_ram(self) -> bool:
        return self.decoded_bytes(range(self.frame_count)) <= RAM_SHARE * _physical_memory() / local_count()

    def _decode_all(self, wanted: IndexArray, workers: int, progress: bool) -> dict[Size, ByteImage]:
        counts = np.bincount(self._size_number)
        images = {size: np.zeros((count, size[1], size[0], 4), np.uint8)
                  for size, count in zip(self.sizes, counts, strict=True)}

        def decode(number: int) -> None:
            index = int(wanted[number])
            images[self.size(index)][self.place[index]] = image = self._decode(index)
            self._facts[index] = picture_facts(image)

        done = ordered(decode, len(wanted), workers)
        for _ in tqdm(done, "Reading images", len(wanted), unit="img", disable=not progress):
            pass
        return images

    def _decode(self, index: int) -> ByteImage:
        frame, size = self.frames[index], self.size(index)
        if frame.mask_path is None:
            rgba = _of_size(read_rgba(frame.image_path), frame.image_path, frame.camera)
        else:
            rgba = with_alpha(_of_size(read_rgb(frame.image_path), frame.image_path, frame.camera),
                              _of_size(read_mask(frame.mask_path), frame.mask_path, frame.camera))
        if rgba.shape[1::-1] == size:
            return rgba
        # Where the target is the whole photograph, colour outside the mask counts: it is not weighted by alpha.
        return resize_rgba(rgba, *size) if self.background is None else resized(rgba, size)


def resized(image: ByteImage, size: Size) -> ByteImage:
    """An image, averaged over areas to another size where it has not that already."""
    return image if image.shape[1::-1] == size else resize_area(image, *size)


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


def _camera_after_camera(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """Frames sorted by camera, in the order in which cameras first appear, and by time, numbered so."""
    cameras = list(dict.fromkeys(frame.view for frame in frames))
    ordered = sorted(frames, key=lambda frame: (cameras.index(frame.view), frame.time))
    return tuple(frame if frame.index == index else replace(frame, index=index) for index, frame in enumerate(ordered))


def _of_size(image: ByteImage, path: Path, camera: Camera) -> ByteImage:
    """The image, if the file has not changed since its header was read."""
    if image.shape[:2] != (camera.height, camera.width):
        raise ValueError(f"{path}: {camera.width} x {camera.height} pixels expected, "
                         f"got {image.shape[1]} x {image.shape[0]}")
    return image


def _stacked(records: Sequence[object], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(record, name) for record in records]))


def _physical_memory() -> float:
    """Bytes of memory in this machine; infinite where the system does not tell (Windows)."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")
