"""Our rasterizer and gsplat on the same splats: python -m benchmarks.against_gsplat CAPTURED.npz [--batches 1 8]

Prints and stores whether the two agree (and ours with the picture in CAPTURED.npz), then the times of both; exits with
1 where they do not agree. Needs a GPU and gsplat, which is no requirement of this project (its licence: Apache-2.0).

gsplat runs as its documentation recommends for speed in small scenes (packed=False), with our near plane and dilation,
colours given instead of spherical harmonics, no background. What cannot be set equal: gsplat caps alpha at 0.999
instead of 0.99, cuts a splat at a rectangle of at most 3.33 sigma instead of where its alpha falls below 1/255, and
normalises quaternions, so that its gradient of them is the part of ours tangent to the unit sphere.

Agreement is therefore asked for twice: of the splats as they are, with gradients as an image loss sends them, and of
the splats with opacities so low that neither cap applies, with random gradients. (Random gradients of the splats as
they are say nothing about the programs: our own C++ build with a cap of 0.999 has gradients of the opacities that
differ by 2.3 % from those with 0.99.)

The sum of kernels is what both are compared by: gsplat reads the number of its tile instances back to the host, so it
cannot be captured in a graph.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diff_gaussian_rasterization import constants, rasterize
from torch import Tensor

from benchmarks.rasterizer import LEARNT, Steps, load_scene, our_steps, parser_of, steps_of, time_steps
from benchmarks.results import Results

IMAGE_DB = 70.0
STORED_DB = 60.0
GRADIENT_ERROR = 0.01
UNCAPPED = 0.98  # below both caps


class Picture(NamedTuple):
    """A drawn batch in our layout, and the gradients of what it was drawn of."""

    image: Tensor  # [B,3,H,W]
    alpha: Tensor  # [B,H,W]
    gradients: dict[str, Tensor]


def gsplat_draw(scene: dict[str, Any]) -> Callable[[], tuple[Tensor, Tensor]]:
    """gsplat's images [B,1,H,W,3] and alphas [B,1,H,W,1]: every frame has splats and one camera of its own."""
    views = _views(scene)[:, None]
    return _gsplat_call([scene[name] for name in LEARNT], views, scene["K"][:, None], scene)


def gsplat_draw_shared(scene: dict[str, Any]) -> tuple[Callable[[], tuple[Tensor, Tensor]], list[Tensor]]:
    """The same with the splats of the first frame under all cameras, and those splats: less work than ours."""
    shared = [scene[name][0].detach().requires_grad_() for name in LEARNT]
    return _gsplat_call(shared, _views(scene), scene["K"], scene), shared


def _views(scene: dict[str, Any]) -> Tensor:
    """World-to-camera matrices [B,4,4]."""
    views = torch.eye(4, device=scene["R"].device).repeat(len(scene["R"]), 1, 1)
    views[:, :3, :3], views[:, :3, 3] = scene["R"], scene["t"]
    return views


def _gsplat_call(
    splats: list[Tensor], views: Tensor, K: Tensor, scene: dict[str, Any]
) -> Callable[[], tuple[Tensor, Tensor]]:
    gsplat = import_gsplat()
    options = {"near_plane": constants().near_plane, "eps2d": constants().dilation, "packed": False}

    def draw() -> tuple[Tensor, Tensor]:
        image, alpha, _ = gsplat.rasterization(*splats, views, K, scene["width"], scene["height"], **options)
        return image, alpha

    return draw


def our_picture(scene: dict[str, Any], upstream: Sequence[Tensor]) -> Picture:
    """Our drawing, and its gradients under those of image [B,3,H,W] and alpha [B,H,W]."""
    output = rasterize(**scene)
    return _with_gradients(output.image, output.alpha, scene, upstream)


def gsplat_picture(scene: dict[str, Any], upstream: Sequence[Tensor]) -> Picture:
    """The same by gsplat."""
    image, alpha = gsplat_draw(scene)()
    return _with_gradients(image[:, 0].permute(0, 3, 1, 2), alpha[:, 0, ..., 0], scene, upstream)


def _with_gradients(image: Tensor, alpha: Tensor, scene: dict[str, Any], upstream: Sequence[Tensor]) -> Picture:
    values = torch.autograd.grad([image, alpha], [scene[name] for name in LEARNT], list(upstream))
    return Picture(image.detach(), alpha.detach(), dict(zip(LEARNT, values, strict=True)))


def psnr(got: Tensor, wanted: Tensor) -> float:
    """Peak signal (1) to noise, dB."""
    return float(-10 * torch.log10((got - wanted).square().mean()))


def relative_errors(got: Picture, wanted: Picture, quats: Tensor) -> dict[str, float]:
    """Norm of each gradient's difference over the norm of the wanted one; rotations on the tangent of `quats`."""
    errors = {}
    for name in LEARNT:
        pair = [got.gradients[name], wanted.gradients[name]]
        if name == "quats":
            unit = torch.nn.functional.normalize(quats, dim=-1)
            pair = [v - (v * unit).sum(-1, keepdim=True) * unit for v in pair]
        errors[name] = float((pair[0] - pair[1]).norm() / pair[1].norm())
    return errors


def agreement(ours: Picture, theirs: Picture, quats: Tensor, setting: str, results: Results) -> list[str]:
    """Store how well the two agree; returns what is not good enough, in words."""
    decibels = psnr(ours.image, theirs.image)
    results.add("agreement_image_psnr", f"ours and gsplat, {setting}", decibels, "dB")
    # Stored but not judged: the two caps of alpha differ most here, and no gradient of colours depends on it.
    results.add("agreement_alpha_psnr", f"ours and gsplat, {setting}", psnr(ours.alpha, theirs.alpha), "dB")
    missed = [] if decibels >= IMAGE_DB else [f"image, {setting}: wanted at least {IMAGE_DB:g} dB, got {decibels:.2f}"]
    for name, error in relative_errors(ours, theirs, quats).items():
        results.add("agreement_gradient", f"{name}, ours and gsplat, {setting}", error, "relative")
        if not error <= GRADIENT_ERROR:
            missed.append(f"gradient of {name}, {setting}: wanted a relative error of at most {GRADIENT_ERROR:g}, "
                          f"got {error:.3g}")
    return missed


def check(args: argparse.Namespace, results: Results) -> bool:
    """Agreement on one frame, at the size of the stored picture; whether all of it is good enough."""
    stored = Stored.read(args.captured, args.device)
    scene = load_scene(args.captured, args.device, 1, stored.image.shape[-1])
    size = f"N={scene['means'].shape[1]} {scene['width']}x{scene['height']}"
    quats = scene["quats"].detach()

    def compare(scene: dict[str, Any], upstream: Sequence[Tensor], setting: str) -> list[str]:
        ours, theirs = our_picture(scene, upstream), gsplat_picture(scene, upstream)
        return agreement(ours, theirs, quats, f"{setting} {size}", results)

    missed = compare(scene, stored.loss_gradients(), "gradients of a loss")
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(v.shape, generator=generator).to(v.device) for v in stored]
    uncapped = scene["opacities"].detach().clamp(max=UNCAPPED).requires_grad_()
    missed += compare(scene | {"opacities": uncapped}, noise, f"random gradients, opacities at most {UNCAPPED:g}")
    with torch.no_grad():
        decibels = psnr(rasterize(**scene).image, stored.image)
    results.add("agreement_stored_psnr", f"ours and the reference {size}", decibels, "dB")
    if not decibels >= STORED_DB:
        missed.append(f"stored picture: wanted at least {STORED_DB:g} dB, got {decibels:.2f}")
    print("\n".join(missed) or "  they agree")
    return not missed


class Stored(NamedTuple):
    """The reference's picture of captured splats."""

    image: Tensor  # [1,3,H,W]
    alpha: Tensor  # [1,H,W]

    @staticmethod
    def read(path: Path, device: str) -> Stored:
        """From the file of the splats."""
        data = np.load(path)
        return Stored(*(torch.from_numpy(data[name].astype(np.float32)).to(device)[None] for name in Stored._fields))

    def loss_gradients(self) -> list[Tensor]:
        """Those of a squared error: of this picture where its mirror image is wanted."""
        return [(part - part.flip(-1)) / part.numel() for part in self]


def contenders(scene: dict[str, Any]) -> dict[str, Steps]:
    """What is timed, by name."""
    name = f"gsplat {import_gsplat().__version__}"
    splats = [scene[learnt] for learnt in LEARNT]
    steps = {"ours": our_steps(scene), name: steps_of(gsplat_draw(scene), splats)}
    if len(scene["R"]) > 1:
        steps[f"{name} one set of splats"] = steps_of(*gsplat_draw_shared(scene))
    return steps


def import_gsplat() -> Any:
    """The package; SystemExit says how to get it where it is missing."""
    try:
        return importlib.import_module("gsplat")
    except ImportError as error:
        raise SystemExit(f"gsplat cannot be imported ({error}): install gsplat 1.5.3 to compare with it") from error


def main() -> None:
    args = parser_of(__doc__).parse_args()
    results = Results(args.results, args.commit)
    agreed = check(args, results)
    for batch in args.batches:
        scene = load_scene(args.captured, args.device, batch, args.size)
        for name, steps in contenders(scene).items():
            setting = f"{name} batch={batch} N={scene['means'].shape[1]} {args.size}x{args.size}, a frame"
            time_steps(steps, setting, batch, args.repeats, results, graph=name == "ours")
    sys.exit(0 if agreed else 1)


if __name__ == "__main__":
    main()
