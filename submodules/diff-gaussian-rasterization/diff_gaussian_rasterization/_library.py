"""ctypes views of `include/rasterize.h` and the calls into the native libraries; knows nothing of autograd."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

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
    """What adaptive density control wants to know, summed over frames; updated in place by every backward pass.

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


DIFFERENTIABLE = ("means", "quats", "scales", "opacities", "colors", "R", "t", "K")


@dataclass(frozen=True)
class Scene:
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
    def count(self) -> int:
        """Number of Gaussians of a frame."""
        return self.means.shape[1]

    @property
    def background_kind(self) -> int:
        """BackgroundKind of `include/rasterize.h`: black, [3], [B,3] or [B,3,H,W]."""
        return 0 if self.background is None else {1: 1, 2: 2, 4: 3}[self.background.ndim]


def _structure(name: str, fields: str) -> type[ctypes.Structure]:
    """A structure of pointers, except for the names given as `name:int`."""
    pairs = [field.partition(":") for field in fields.split()]
    types = [(field, ctypes.c_int32 if kind else ctypes.c_void_p) for field, _, kind in pairs]
    return type(name, (ctypes.Structure,), {"_fields_": types})


_Scene = _structure(
    "_Scene",
    "batch:int count:int width:int height:int background_kind:int threads:int "
    "means quats scales opacities colors R t K background",
)
_Picture = _structure("_Picture", "image alpha radii")
_Upstream = _structure("_Upstream", "v_image v_alpha image radii")
_Gradients = _structure(
    "_Gradients", "means quats scales opacities colors R t K background means2d grad_sum count max_radius"
)


def _pack(kind: type[ctypes.Structure], **values: Tensor | int | None) -> ctypes.Structure:
    return kind(**{name: value if isinstance(value, int) else _native.pointer(value) for name, value in values.items()})


def _pack_scene(scene: Scene) -> ctypes.Structure:
    tensors = {name: getattr(scene, name) for name in (*DIFFERENTIABLE, "background")}
    sizes = {"batch": scene.batch, "count": scene.count, "width": scene.width, "height": scene.height}
    return _pack(_Scene, **sizes, background_kind=scene.background_kind, threads=torch.get_num_threads(), **tensors)


@dataclass(frozen=True)
class Gradients:
    """Gradients with respect to the fields of Scene of the same names; means2d [B,N,2] in NDC scale."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    R: Tensor
    t: Tensor
    K: Tensor
    background: Tensor | None
    means2d: Tensor | None


def empty_gradients(scene: Scene, want_background: bool, want_means2d: bool) -> Gradients:
    """Uninitialised gradients of a scene; None where not wanted."""
    background = torch.empty_like(scene.background) if want_background and scene.background is not None else None
    means2d = scene.means.new_empty(scene.batch, scene.count, 2) if want_means2d else None
    alike = {name: torch.empty_like(getattr(scene, name)) for name in DIFFERENTIABLE}
    return Gradients(**alike, background=background, means2d=means2d)


class CpuPass:
    """One forward pass of the C++ library, holding what its backward pass needs until it is dropped."""

    def __init__(self, scene: Scene, image: Tensor, alpha: Tensor, radii: Tensor):
        self._library = _native.load("cpu")
        self._suffix = {torch.float32: "f32", torch.float64: "f64"}[scene.means.dtype]
        self._state = ctypes.c_void_p()
        picture = _pack(_Picture, image=image, alpha=alpha, radii=radii)
        self._call("forward", ctypes.byref(_pack_scene(scene)), ctypes.byref(picture), ctypes.byref(self._state))

    def backward(
        self,
        scene: Scene,
        upstream: tuple[Tensor | None, Tensor | None, Tensor, Tensor],
        out: Gradients,
        stats: DensifyStats | None,
    ) -> None:
        """Fill `out`; upstream = (v_image, v_alpha, image, radii)."""
        names = ("v_image", "v_alpha", "image", "radii")
        packed = _pack(_Upstream, **dict(zip(names, upstream, strict=True)))
        gradients = _pack(_Gradients, **vars(out), **(vars(stats) if stats is not None else {}))
        self._call(
            "backward", ctypes.byref(_pack_scene(scene)), self._state, ctypes.byref(packed), ctypes.byref(gradients)
        )

    def _call(self, name: str, *arguments: object) -> None:
        _native.check(self._library, "dgr", getattr(self._library, f"dgr_{name}_{self._suffix}")(*arguments))

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            getattr(self._library, f"dgr_free_{self._suffix}")(self._state)
