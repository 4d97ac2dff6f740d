"""Times the rasterizer on captured splats: python benchmark.py CAPTURED.npz [--device cuda] [--batch 8] [--size 512]

CAPTURED.npz holds means, quats, scales, opacities, sh, w2c, K and size of one frame. On CUDA it prints wall time of
eager calls, time of a replayed CUDA graph (the device busy, no host between kernels), and the kernels' own times.
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


def print_kernels(step: Callable[[], object]) -> None:
    """Mean time of each kernel of a step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(REPEATS):
            step()
        torch.cuda.synchronize()
    for event in sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total):
        if event.self_device_time_total:
            each = event.self_device_time_total / REPEATS
            print(f"  {each:9.1f} us  {event.count / REPEATS:5.1f} launches  {event.key[:90]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captured", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, default=512)
    args = parser.parse_args()
    scene = load_scene(args.captured, args.device, args.batch, args.size)
    leaves = [scene[name].requires_grad_() for name in ("means", "quats", "scales", "opacities", "colors")]
    stats = DensifyStats.zeros(leaves[0].shape[1], args.device)
    v_image = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    v_alpha = torch.randn(args.batch, args.size, args.size, device=args.device)

    def forward() -> None:
        with torch.no_grad():
            rasterize(**scene)

    def forward_backward() -> None:
        output = rasterize(**scene, stats=stats)
        torch.autograd.grad([output.image, output.alpha], leaves, [v_image, v_alpha])

    cuda = args.device.startswith("cuda")
    wait = torch.cuda.synchronize if cuda else lambda: None
    print(f"{leaves[0].shape[1]} Gaussians, {args.size}x{args.size}, batch {args.batch}, {args.device}; ms a frame:")
    for name, step in (("forward", forward), ("forward + backward", forward_backward)):
        print(f"{name}: wall {milliseconds(step, wait) / args.batch:.3f}", end="")
        print(f", device busy {graph_milliseconds(step) / args.batch:.3f}" if cuda else "")
    if cuda:
        print_kernels(forward_backward)


if __name__ == "__main__":
    main()
