"""Frames/s of playing: python -m benchmarks.rendering (-m RUN | -s SUBJECT --gaussians 100000) [--profile]

Every frame has a new expression and a new camera, which start as tensors on the host; the picture ends on the device.

    latency    one frame at a time, each awaited before the next is given: median of `--frames`
    stream     one frame at a time, not awaited: the host works ahead of the GPU
    batch B    B frames a call, not awaited
    eager      as latency, drawn by `Player.render` (the codes posed on the CPU, no CUDA graph)

render_fps are frames/s, render_gpu the time in ms for which a frame keeps the GPU busy. The avatar is a trained run's,
or one made from a data set with so many Gaussians of the face and trained for some steps, without densification.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.results import RESULTS, Results, kernel_times, print_kernels
from benchmarks.training import settings_of, wait
from gaussian_renderer import Cameras
from player import Player, open_player
from player.fast import FastRenderer
from scene.rig import Codes
from training.trainer import Trainer
from training.world import open_world
from utils.devices import resolve_device

Input = tuple[Codes, Cameras]


def trained_player(args: argparse.Namespace, gaussians: int) -> Player:
    """An avatar with `gaussians` on the face, after `--train_steps` steps on the data set."""
    settings, device = settings_of(args, 1, gaussians, -1), resolve_device(args.device)
    trainer = Trainer(settings, open_world(settings.data, settings.model, 0, device), device)
    for _ in range(args.train_steps):
        trainer.step()
    world = trainer.world
    return Player(world.head, trainer.avatar, world.clip, trainer.sh_degree, world.rig.num_expressions, device, "made")


def players(args: argparse.Namespace) -> Iterator[Player]:
    """The subjects of the measurement."""
    if args.model_path is not None:
        yield open_player(args.model_path, resolve_device(args.device))
        return
    for gaussians in args.gaussians:
        yield trained_player(args, gaussians)


def moved(cameras: Cameras, device: torch.device) -> Cameras:
    """The same on `device`."""
    return Cameras(cameras.R.to(device), cameras.t.to(device), cameras.K.to(device), cameras.width, cameras.height)


def host_inputs(player: Player, count: int, batch: int, size: int) -> list[Input]:
    """`count` calls' codes and cameras on the host, frames of the clip in random order, cameras in another."""
    generator = torch.Generator().manual_seed(0)

    def order() -> torch.Tensor:
        rounds = -(-count * batch // len(player.clip))
        return torch.cat([torch.randperm(len(player.clip), generator=generator) for _ in range(rounds)])

    codes_order, camera_order = order(), order()
    inputs = []
    for first in range(0, count * batch, batch):
        codes = player.codes_of(codes_order[first:first + batch]).to("cpu")
        there = player.cameras_of(camera_order[first:first + batch], size)
        inputs.append((codes, moved(there, torch.device("cpu"))))
    return inputs


def awaited(draw: Callable[[Codes, Cameras], object], inputs: Sequence[Input], device: torch.device) -> float:
    """Median seconds from a call to its finished picture."""
    times = []
    for codes, cameras in inputs:
        start = time.perf_counter()
        draw(codes, cameras)
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def streamed(draw: Callable[[Codes, Cameras], object], inputs: Sequence[Input], device: torch.device) -> float:
    """Seconds a call when only the last one is awaited: median of five runs over all inputs."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for codes, cameras in inputs:
            draw(codes, cameras)
        wait(device)
        times.append((time.perf_counter() - start) / len(inputs))
    return statistics.median(times)


def measure(player: Player, size: int, half: bool, args: argparse.Namespace, results: Results) -> None:
    """All ways of drawing one size."""
    first = player.cameras_of(0, size)
    setting = (f"N={player.avatar.count} P={len(player.avatar.differences.values)} K={player.num_expressions} "
               f"{first.width}x{first.height} {'half' if half else 'full'}")
    for batch in args.batch_sizes:
        renderer = FastRenderer(player, first.width, first.height, batch, half, as_bytes=args.as_bytes)
        inputs = host_inputs(player, max(1, args.frames // batch), batch, size)
        streamed(renderer.render, inputs, player.device)  # the rasterizer's lists grow to what these frames need
        if batch == 1:
            results.add("render_fps", f"latency {setting}", 1 / awaited(renderer.render, inputs, player.device), "1/s")
        name = "stream" if batch == 1 else f"batch B={batch}"
        seconds = streamed(renderer.render, inputs, player.device)
        results.add("render_fps", f"{name} {setting}", batch / seconds, "1/s")
        if player.device.type == "cuda":
            report_kernels(renderer, inputs, f"{name} {setting}", args.profile, results)


def measure_eager(player: Player, size: int, args: argparse.Namespace, results: Results) -> None:
    """The plain way, as the comparison."""
    inputs = [(codes, moved(cameras, player.device))
              for codes, cameras in host_inputs(player, max(1, args.frames // 10), 1, size)]
    awaited(player.render, inputs[:3], player.device)
    width, height = inputs[0][1].width, inputs[0][1].height
    results.add("render_fps", f"eager N={player.avatar.count} P={len(player.avatar.differences.values)} "
                f"K={player.num_expressions} {width}x{height} full",
                1 / awaited(player.render, inputs, player.device), "1/s")


def report_kernels(renderer: FastRenderer, inputs: Sequence[Input], setting: str, profile: bool,
                   results: Results) -> None:
    """GPU time of a frame, and its kernels if wanted."""
    following = iter(list(inputs) * 20)

    def step() -> None:
        renderer.render(*next(following))

    busy = sum(kernel.microseconds for kernel in kernel_times(step, min(20, len(inputs))))
    results.add("render_gpu", setting, busy / 1e3 / renderer.batch, "ms")
    if profile:
        print_kernels(step, min(20, len(inputs)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("-m", "--model_path", type=Path, help="output folder of a run")
    subject.add_argument("-s", "--source_path", type=Path, help="data set to make avatars from")
    parser.add_argument("--gaussians", type=int, nargs="+", default=[60_000, 100_000], help="of the face, with -s")
    parser.add_argument("--expressions", type=int, default=50, help="with -s")
    parser.add_argument("--test_frames", type=int, default=8, help="with -s")
    parser.add_argument("--train_steps", type=int, default=1000, help="with -s")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024], help="picture widths")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--precisions", nargs="+", choices=["half", "full"], default=["half", "full"])
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--as_bytes", action="store_true", help="also turn the picture into bytes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--profile", action="store_true", help="print the kernels of a call")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="name of the measured commit, where git cannot tell")
    args = parser.parse_args()
    results = Results(args.results, args.commit)
    for player in players(args):
        for size in args.sizes:
            for precision in args.precisions:
                measure(player, size, precision == "half", args, results)
            measure_eager(player, size, args, results)


if __name__ == "__main__":
    main()
