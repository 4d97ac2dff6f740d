"""Times the rasterizer on captured splats: python -m benchmarks.rasterizer CAPTURED.npz [--batches 1 8] [--size 512]

CAPTURED.npz holds means, quats, scales, opacities, sh, w2c, K and size of one frame. On CUDA it prints wall time of
eager calls (median), the sum of their kernels, time of a replayed CUDA graph (the device busy, no host between
kernels), and with --profile the kernels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diff_gaussian_rasterization import DensifyStats, rasterize
from diff_gaussian_rasterization.familiar import sh_basis
from torch import Tensor

from benchmarks.results import RESULTS, Results, kernel_times, print_kernels

REPEATS = 200
LEARNT = ("means", "quats", "scales", "opacities", "colors")


def load_scene(path: Path, device: str, batch: int, size: int) -> dict[str, Any]:
    """Arguments of `rasterize`; the frame repeated `batch` times, each seen from a slightly other side."""
    data = np.load(path)
    tensors = {
        name: torch.from_numpy(data[name].astype(np.float32)) for name in ("means", "quats", "scales", "opacities")
    }
    w2c, K = torch.from_numpy(data["w2c"]), torch.from_numpy(data["K"]).clone()
    K[:2] *= size / float(data["size"][1])
    R, t = w2c[:3, :3], w2c[:3, 3]
    basis = sh_basis(torch.nn.functional.normalize(tensors["means"] + R.T @ t, dim=-1), 3)
    tensors["colors"] = (
        0.5 + torch.einsum("nj,njc->nc", basis, torch.from_numpy(data["sh"].astype(np.float32)))
    ).clamp(min=0)
    tensors |= {"R": R, "t": t, "K": K}
    scene: dict[str, Any] = {name: tensor.expand(batch, *tensor.shape).contiguous() for name, tensor in tensors.items()}
    scene["t"] = scene["t"] + 0.003 * torch.arange(batch)[:, None]
    scene = {name: tensor.to(device).requires_grad_(name in LEARNT) for name, tensor in scene.items()}
    return scene | {"width": size, "height": size}


def milliseconds(step: Callable[[], object], wait: Callable[[], object], repeats: int) -> float:
    """Median wall time of a step, the device having finished."""
    times = []
    for i in range(repeats + 5):
        start = time.perf_counter()
        step()
        wait()
        if i >= 5:
            times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[repeats // 2]


def loop_milliseconds(step: Callable[[], object], wait: Callable[[], object], repeats: int) -> float:
    """Mean wall time of a step among others, as in a loop that trains: nothing is awaited before the last one."""
    step()
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    wait()
    return 1e3 * (time.perf_counter() - start) / repeats


def graph_milliseconds(step: Callable[[], object], repeats: int) -> float:
    """Time of a step captured in a CUDA graph: the mean over replays back to back."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / repeats


class Steps(NamedTuple):
    """The two things that are timed."""

    forward: Callable[[], None]
    forward_backward: Callable[[], None]


def steps_of(draw: Callable[[], Sequence[Tensor]], leaves: Sequence[Tensor]) -> Steps:
    """Drawing without gradients, and drawing with those of `leaves`, random ones coming from what `draw` returns."""
    with torch.no_grad():
        upstream = [torch.randn_like(output) for output in draw()]

    def forward() -> None:
        with torch.no_grad():
            draw()

    def forward_backward() -> None:
        torch.autograd.grad(list(draw()), list(leaves), upstream)

    return Steps(forward, forward_backward)


def our_steps(scene: dict[str, Any]) -> Steps:
    """Our rasterizer, with densification statistics in the backward pass."""
    means = scene["means"]
    stats = DensifyStats.zeros(means.shape[1], means.device)

    def draw() -> tuple[Tensor, Tensor]:
        output = rasterize(**scene, stats=stats)
        return output.image, output.alpha

    return steps_of(draw, [scene[name] for name in LEARNT])


def time_steps(steps: Steps, setting: str, batch: int, repeats: int, results: Results, graph: bool = True) -> None:
    """Rows, ms a frame: wall time of a call, from an idle device to its result, and of one in a loop; on a GPU the sum
    of the kernels and (`graph`) a replayed graph.
    """
    cuda = torch.cuda.is_available()
    wait = torch.cuda.synchronize if cuda else lambda: None
    for name, step in (("raster_fwd", steps.forward), ("raster_fwd_bwd", steps.forward_backward)):
        results.add(f"{name}_wall", setting, milliseconds(step, wait, repeats) / batch, "ms")
        results.add(f"{name}_wall", f"{setting}, in a loop", loop_milliseconds(step, wait, repeats) / batch, "ms")
        if cuda:
            busy = 1e-3 * sum(kernel.microseconds for kernel in kernel_times(step, repeats))
            results.add(f"{name}_gpu", f"{setting}, sum of kernels", busy / batch, "ms")
        if cuda and graph:
            results.add(f"{name}_gpu", setting, graph_milliseconds(step, repeats) / batch, "ms")


def measure(scene: dict[str, Any], args: argparse.Namespace, results: Results) -> None:
    """Forward, and forward + backward with statistics, of one batch; milliseconds a frame."""
    batch, count = scene["means"].shape[:2]
    steps = our_steps(scene)
    setting = f"ours batch={batch} N={count} {args.size}x{args.size}, a frame"
    time_steps(steps, setting, batch, args.repeats, results)
    if args.profile:
        print_kernels(steps.forward_backward, args.repeats)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Flags of a benchmark on captured splats."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captured", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="name of the measured commit, where git cannot tell")
    return parser


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--profile", action="store_true", help="print the kernels")
    args = parser.parse_args()
    results = Results(args.results, args.commit)
    for batch in args.batches:
        measure(load_scene(args.captured, args.device, batch, args.size), args, results)


if __name__ == "__main__":
    main()
