"""ctypes views of `include/rasterize.h` and the calls into the native libraries; knows nothing of autograd."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from . import _native


@dataclass(frozen=True)
class RasterConstants:
    """The constants of `include/constants.h`, which says what each one means."""

    tile: int
    near_plane: float
    dilation: float
    alpha_min: float
    alpha_max: float
    transmittance_min: float
    jacobian_limit: float
    radius_sigmas: float
    discriminant_min: float


@cache
def constants() -> RasterConstants:
    """The constants of the picture's definition, as the C++ library was compiled with."""
    names = list(RasterConstants.__dataclass_fields__)
    values = (ctypes.c_double * len(names))()
    _native.load("cpu").dgr_constants(values)
    return RasterConstants(int(values[0]), *values[1:])


@dataclass(frozen=True)
class DensifyStats:
    """Densification statistics, summed over frames; updated in place by every backward pass.

    All three are float32 [N] on the Gaussians' device. `grad_sum`: norms of the gradient with respect to the 2D mean in
    NDC scale (pixels times 0.5 W, 0.5 H), without the part that comes through the alpha output. `count`: frames in
    which the Gaussian touched the picture. `max_radius`: its largest radius, in pixels.
    """

    grad_sum: Tensor
    count: Tensor
    max_radius: Tensor

    @classmethod
    def zeros(cls, count: int, device: torch.device | str | None = None) -> DensifyStats:
        """Statistics of `count` Gaussians before the first backward pass."""
        return cls(*(torch.zeros(count, dtype=torch.float32, device=device) for _ in range(3)))


class Scene(NamedTuple):
    """Checked, contiguous inputs of one call; shapes as in `rasterize`."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    R: Tensor
    t: Tensor
    K: Tensor
    background: Tensor | None
    width: int
    height: int

    @property
    def batch(self) -> int:
        """Number of frames."""
        return self.means.shape[0]

    @property
    def gaussians(self) -> int:
        """Number of Gaussians of a frame."""
        return self.means.shape[1]

    @property
    def background_kind(self) -> int:
        """BackgroundKind of `include/rasterize.h`: black, [3], [B,3] or [B,3,H,W]."""
        return 0 if self.background is None else BACKGROUND_KINDS[self.background.ndim]


def structure(name: str, fields: str) -> type[ctypes.Structure]:
    """The structure `name` of `include/rasterize.h`: pointers, except for the fields given as `name:int`."""
    pairs = [field.partition(":") for field in fields.split()]
    types = [(field, ctypes.c_int32 if kind else ctypes.c_void_p) for field, _, kind in pairs]
    return type(name, (ctypes.Structure,), {"_fields_": types})


SceneStructure = structure(
    "DgrScene",
    "batch:int count:int width:int height:int background_kind:int threads:int "
    "means quats scales opacities colors R t K background",
)
PictureStructure = structure("DgrPicture", "image alpha radii")
UpstreamStructure = structure("DgrUpstream", "v_image v_alpha image radii")
GradientsStructure = structure(
    "DgrGradients", "means quats scales opacities colors R t K background means2d grad_sum count max_radius"
)
BACKGROUND_KINDS = {1: 1, 2: 2, 4: 3}  # BackgroundKind of `include/rasterize.h`, by dimensions; 0: black
_native.mirror(
    "dgr",
    *(SceneStructure, PictureStructure, UpstreamStructure, GradientsStructure),
    BACKGROUND_BLACK=0,
    BACKGROUND_COLOR=BACKGROUND_KINDS[1],
    BACKGROUND_COLOR_PER_FRAME=BACKGROUND_KINDS[2],
    BACKGROUND_IMAGE=BACKGROUND_KINDS[4],
)


def addresses(*tensors: Tensor | None) -> list[int | None]:
    """Where contiguous tensors begin, for pointer fields; None is the null pointer."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def pack_scene(scene: Scene) -> ctypes.Structure:
    batch, count = scene.means.shape[:2]
    sizes = (batch, count, scene.width, scene.height, scene.background_kind, torch.get_num_threads())
    return SceneStructure(*sizes, *addresses(*scene[:9]))


class Gradients(NamedTuple):
    """Gradients with respect to the fields of Scene of the same names; means2d [B,N,2] in NDC scale."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    R: Tensor | None
    t: Tensor | None
    K: Tensor | None
    background: Tensor | None
    means2d: Tensor | None


def empty_gradients(scene: Scene, want_camera: bool, want_background: bool, want_means2d: bool) -> Gradients:
    """Uninitialised gradients of a scene; None where not wanted."""
    camera = [torch.empty_like(v) if want_camera else None for v in (scene.R, scene.t, scene.K)]
    background = torch.empty_like(scene.background) if want_background and scene.background is not None else None
    means2d = scene.means.new_empty(*scene.opacities.shape, 2) if want_means2d else None
    return Gradients._make((*map(torch.empty_like, scene[:5]), *camera, background, means2d))
