"""Times the rasterizer on captured splats: python -m benchmarks.rasterizer CAPTURED.npz [--batches 1 8] [--size 512]

CAPTURED.npz holds means, quats, scales, opacities, sh, w2c, K and size of one frame. On CUDA it prints wall time of
eager calls, time of a replayed CUDA graph (the device busy, no host between kernels), and with --profile the kernels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diff_gaussian_rasterization import DensifyStats, rasterize
from diff_gaussian_rasterization.familiar import sh_basis

from benchmarks.results import RESULTS, Results, print_kernels

REPEATS = 50


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
    return {name: tensor.to(device) for name, tensor in scene.items()} | {"width": size, "height": size}


def milliseconds(step: Callable[[], object], wait: Callable[[], object]) -> float:
    """Median wall time of a step, the device having finished."""
    times = []
    for i in range(REPEATS + 5):
        start = time.perf_counter()
        step()
        wait()
        if i >= 5:
            times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[REPEATS // 2]


def graph_milliseconds(step: Callable[[], object]) -> float:
    """Time of a step captured in a CUDA graph: the mean over replays back to back."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graph.replay()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(REPEATS):
        graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / REPEATS


def measure(scene: dict[str, Any], args: argparse.Namespace, results: Results) -> None:
    """Forward, and forward + backward with statistics, of one batch; milliseconds a frame."""
    leaves = [scene[name].requires_grad_() for name in ("means", "quats", "scales", "opacities", "colors")]
    batch, count = leaves[0].shape[:2]
    stats = DensifyStats.zeros(count, args.device)
    v_image = torch.randn(batch, 3, args.size, args.size, device=args.device)
    v_alpha = torch.randn(batch, args.size, args.size, device=args.device)

    def forward() -> None:
        with torch.no_grad():
            rasterize(**scene)

    def forward_backward() -> None:
        output = rasterize(**scene, stats=stats)
        torch.autograd.grad([output.image, output.alpha], leaves, [v_image, v_alpha])

    cuda = args.device.startswith("cuda")
    wait = torch.cuda.synchronize if cuda else lambda: None
    setting = f"ours batch={batch} N={count} {args.size}x{args.size}, a frame"
    for name, step in (("raster_fwd", forward), ("raster_fwd_bwd", forward_backward)):
        results.add(f"{name}_wall", setting, milliseconds(step, wait) / batch, "ms")
        if cuda:
            results.add(f"{name}_gpu", setting, graph_milliseconds(step) / batch, "ms")
    if args.profile:
        print_kernels(forward_backward, REPEATS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captured", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--profile", action="store_true", help="print the kernels")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="name of the measured commit, where git cannot tell")
    args = parser.parse_args()
    results = Results(args.results, args.commit)
    for batch in args.batches:
        measure(load_scene(args.captured, args.device, batch, args.size), args, results)


if __name__ == "__main__":
    main()
