"""One forward pass of a native library, and the backward pass that belongs to it."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from . import _native
from ._library import (
    DensifyStats,
    Gradients,
    GradientsStructure,
    PictureStructure,
    Scene,
    UpstreamStructure,
    addresses,
    constants,
    pack_scene,
    structure,
)

Upstream = tuple[Tensor | None, Tensor | None, Tensor, Tensor]  # v_image, v_alpha, image, radii


def _pack_gradients(out: Gradients, stats: DensifyStats | None) -> ctypes.Structure:
    sums = () if stats is None else (stats.grad_sum, stats.count, stats.max_radius)
    return GradientsStructure(*addresses(*out, *sums))


class CpuPass:
    """A pass of the C++ library; holds what its backward pass needs until it is dropped."""

    sums_means2d = True  # statistics are summed up from Gradients.means2d

    def __init__(self, scene: Scene, image: Tensor, alpha: Tensor, radii: Tensor):
        self._library = _native.load("cpu")
        self._suffix = {torch.float32: "f32", torch.float64: "f64"}[scene.means.dtype]
        self._state = ctypes.c_void_p()
        picture = PictureStructure(*addresses(image, alpha, radii))
        self._call("forward", ctypes.byref(pack_scene(scene)), ctypes.byref(picture), ctypes.byref(self._state))

    def backward(self, scene: Scene, upstream: Upstream, out: Gradients, stats: DensifyStats | None) -> None:
        """Fill `out` and add to `stats`."""
        packed = (UpstreamStructure(*addresses(*upstream)), _pack_gradients(out, stats))
        self._call("backward", ctypes.byref(pack_scene(scene)), self._state, *map(ctypes.byref, packed))

    def _call(self, name: str, *arguments: object) -> None:
        _native.check(self._library, "dgr", getattr(self._library, f"dgr_{name}_{self._suffix}")(*arguments))

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            getattr(self._library, f"dgr_free_{self._suffix}")(self._state)


_Work = structure(
    "DgrCudaWork",
    "splats tile_cursor tile_begin keys transmittance splat_gradients camera background needed capacity:int",
)
RECORD = 12  # numbers of a Gaussian in device memory
CURSOR_STEP = 32  # from one tile's cursor to the next
CAMERA_NUMBERS = 18
MAX_CAPACITY = 2**31 - 1  # pairs of a tile and a Gaussian
_native.mirror(
    "dgr", _Work, RECORD=RECORD, CURSOR_STEP=CURSOR_STEP, CAMERA_NUMBERS=CAMERA_NUMBERS, MAX_CAPACITY=MAX_CAPACITY
)
ALIGNMENT = 256  # bytes, as cudaMalloc's


class _Capacity:
    """How many pairs of a tile and a Gaussian the CUDA library gets memory for.

    The device writes the number it needed into host memory that it can reach; it is read here at a later call, without
    waiting. A pass that needs more than it got draws the same picture, slowly, so a late answer costs time only.
    """

    def __init__(self) -> None:
        self._pairs = 0
        self.room = 0
        self.needed = torch.zeros(1, dtype=torch.int32).pin_memory()
        self._needed = ctypes.c_uint32.from_address(self.needed.data_ptr())  # reading a tensor takes microseconds

    def pairs(self, guess: int) -> int:
        """Memory to give now: half as much again as was last needed, `guess` before that is known."""
        needed = self.last_needed
        if needed > 0.9 * self._pairs or needed < 0.2 * self._pairs:
            self._pairs = int(1.5 * needed)
        self._pairs = max(self._pairs, guess if needed == 0 else 4096)
        return min(self._pairs, MAX_CAPACITY)

    @property
    def last_needed(self) -> int:
        """Pairs that the last finished pass needed; 0 before the first."""
        return self._needed.value


def list_usage(device: torch.device, batch: int, width: int, height: int) -> tuple[int, int]:
    """Pairs of a tile and a Gaussian: (needed by the last finished CUDA pass of this size, with room in the last one).

    For users of CUDA graphs, whose passes keep the room that they had when they were captured: a graph that needs more
    draws the same pictures, slowly, and should be captured again after an ordinary pass. Does not wait for the device.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    capacity = _capacity(index, batch, width, height)
    return capacity.last_needed, capacity.room


@cache
def _capacity(_device: int, _batch: int, _width: int, _height: int) -> _Capacity:
    """One record for each device, batch size and picture size."""
    return _Capacity()


def _allocate(device: torch.device, *sizes: int) -> tuple[Tensor, list[int]]:
    """One piece of memory for arrays of these sizes in bytes, and where each begins.

    One, because asking for memory takes the host about as long as launching a kernel.
    """
    offsets, total = [], 0
    for size in sizes:
        offsets.append(total)
        total += -(-size // ALIGNMENT) * ALIGNMENT
    memory = torch.empty(total, dtype=torch.uint8, device=device)
    first = memory.data_ptr()
    return memory, [first + offset for offset in offsets]


class CudaPass:
    """A pass of the CUDA library on the current stream; holds the device memory that its backward pass needs."""

    sums_means2d = False

    def __init__(self, scene: Scene, image: Tensor, alpha: Tensor, radii: Tensor):
        self._library = _native.load("cuda")
        device, tile = image.device, constants().tile
        batch, count = radii.shape
        tiles = batch * -(-scene.width // tile) * -(-scene.height // tile)
        capacity = _capacity(device.index, batch, scene.width, scene.height)
        pairs = capacity.room = capacity.pairs(guess=4 * batch * count + tiles)
        sizes = (4 * RECORD * batch * count, 4 * CURSOR_STEP * tiles, 4 * (tiles + 1), 8 * pairs, 4 * alpha.numel())
        self._memory, places = _allocate(device, *sizes)
        self._work = _Work(*places, needed=capacity.needed.data_ptr(), capacity=pairs)
        self._call("forward", device, pack_scene(scene), PictureStructure(*addresses(image, alpha, radii)), self._work)

    def backward(self, scene: Scene, upstream: Upstream, out: Gradients, stats: DensifyStats | None) -> None:
        """Fill `out` and add to `stats`."""
        device, batch, count = scene.means.device, scene.batch, scene.gaussians
        camera = 0 if out.R is None else 8 * CAMERA_NUMBERS * batch
        background = 0 if out.background is None else 8 * 3 * batch
        # Not kept: freed memory is given out again in the order of the stream.
        _memory, places = _allocate(device, 4 * RECORD * batch * count, camera, background)
        self._work.splat_gradients, self._work.camera, self._work.background = places
        packed = (UpstreamStructure(*addresses(*upstream)), _pack_gradients(out, stats))
        self._call("backward", device, pack_scene(scene), self._work, *packed)

    def _call(self, name: str, device: torch.device, *structures: ctypes.Structure) -> None:
        with torch.cuda.device(device.index):
            stream = ctypes.c_void_p(torch.cuda.current_stream(device.index).cuda_stream)
            status = getattr(self._library, f"dgr_cuda_{name}")(*map(ctypes.byref, structures), stream)
        _native.check(self._library, "dgr", status)
