"""One forward pass of a native library, and the backward pass that belongs to it."""

from __future__ import annotations

import ctypes
from functools import cache, partial

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
    constants,
    pack,
    pack_scene,
    structure,
)

Upstream = tuple[Tensor | None, Tensor | None, Tensor, Tensor]  # v_image, v_alpha, image, radii


def _pack_upstream(upstream: Upstream) -> ctypes.Structure:
    v_image, v_alpha, image, radii = upstream
    return pack(UpstreamStructure, v_image=v_image, v_alpha=v_alpha, image=image, radii=radii)


def _pack_gradients(out: Gradients, stats: DensifyStats | None) -> ctypes.Structure:
    return pack(GradientsStructure, **vars(out), **(vars(stats) if stats is not None else {}))


class CpuPass:
    """A pass of the C++ library; holds what its backward pass needs until it is dropped."""

    def __init__(self, scene: Scene, image: Tensor, alpha: Tensor, radii: Tensor):
        self._library = _native.load("cpu")
        self._suffix = {torch.float32: "f32", torch.float64: "f64"}[scene.means.dtype]
        self._state = ctypes.c_void_p()
        picture = pack(PictureStructure, image=image, alpha=alpha, radii=radii)
        self._call("forward", ctypes.byref(pack_scene(scene)), ctypes.byref(picture), ctypes.byref(self._state))

    def backward(self, scene: Scene, upstream: Upstream, out: Gradients, stats: DensifyStats | None) -> None:
        """Fill `out` and add to `stats`."""
        packed = (pack_scene(scene), self._state, _pack_upstream(upstream), _pack_gradients(out, stats))
        self._call("backward", *(item if item is self._state else ctypes.byref(item) for item in packed))

    def _call(self, name: str, *arguments: object) -> None:
        _native.check(self._library, "dgr", getattr(self._library, f"dgr_{name}_{self._suffix}")(*arguments))

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            getattr(self._library, f"dgr_free_{self._suffix}")(self._state)


_Work = structure(
    "_Work",
    "splats tile_cursor tile_begin keys transmittance splat_gradients camera background needed capacity:int",
)
RECORD = 12  # numbers of a Gaussian in device memory, as in src/cuda_common.cuh
CAMERA_NUMBERS = 18


class _Capacity:
    """How many pairs of a tile and a Gaussian the CUDA library gets memory for.

    The device writes the number it needed into host memory that it can reach; it is read here at a later call, without
    waiting. A pass that needs more than it got draws the same picture, slowly, so a late answer costs time only.
    """

    def __init__(self) -> None:
        self._pairs = 0
        self.room = 0
        self.needed = torch.zeros(1, dtype=torch.int32).pin_memory()

    def pairs(self, guess: int) -> int:
        """Memory to give now: half as much again as was last needed, `guess` before that is known."""
        needed = self.last_needed
        if needed > 0.9 * self._pairs or needed < 0.2 * self._pairs:
            self._pairs = int(1.5 * needed)
        self._pairs = max(self._pairs, guess if needed == 0 else 4096)
        return min(self._pairs, 2**31 - 1)

    @property
    def last_needed(self) -> int:
        """Pairs that the last finished pass needed; 0 before the first."""
        return int(self.needed[0]) & 0xFFFFFFFF


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


class CudaPass:
    """A pass of the CUDA library on the current stream; holds the device memory that its backward pass needs."""

    def __init__(self, scene: Scene, image: Tensor, alpha: Tensor, radii: Tensor):
        self._library = _native.load("cuda")
        device, tile = image.device, constants().tile
        tiles = scene.batch * -(-scene.width // tile) * -(-scene.height // tile)
        capacity = _capacity(device.index, scene.batch, scene.width, scene.height)
        pairs = capacity.pairs(guess=4 * scene.batch * scene.count + tiles)
        integers = partial(torch.empty, dtype=torch.int32, device=device)
        self._memory = {
            "splats": image.new_empty(scene.batch * scene.count * RECORD),
            "tile_cursor": integers(tiles),
            "tile_begin": integers(tiles + 1),
            "keys": integers(2 * pairs),
            "transmittance": torch.empty_like(alpha),
            "needed": capacity.needed,
        }
        self._pairs = capacity.room = pairs
        picture = pack(PictureStructure, image=image, alpha=alpha, radii=radii)
        self._call("forward", device, pack_scene(scene), picture, pack(_Work, **self._memory, capacity=pairs))

    def backward(self, scene: Scene, upstream: Upstream, out: Gradients, stats: DensifyStats | None) -> None:
        """Fill `out` and add to `stats`."""
        doubles = partial(torch.empty, dtype=torch.float64, device=scene.means.device)
        extra = {
            "splat_gradients": scene.means.new_empty(scene.batch * scene.count * RECORD),
            "camera": None if out.R is None else doubles(scene.batch * CAMERA_NUMBERS),
            "background": None if out.background is None else doubles(3 * scene.batch),
        }
        work = pack(_Work, **self._memory, **extra, capacity=self._pairs)
        arguments = (pack_scene(scene), work, _pack_upstream(upstream), _pack_gradients(out, stats))
        self._call("backward", scene.means.device, *arguments)

    def _call(self, name: str, device: torch.device, *structures: ctypes.Structure) -> None:
        with torch.cuda.device(device):
            stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
            status = getattr(self._library, f"dgr_cuda_{name}")(*map(ctypes.byref, structures), stream)
        _native.check(self._library, "dgr", status)
