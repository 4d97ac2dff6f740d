"""Training images/s and peak memory: python -m benchmarks.training -s SUBJECT [--batch_sizes 1 8] [--profile]

For every batch size, number of Gaussians and picture size: the steps of `train.py` without its log, at the highest SH
degree, with densification statistics but no densification, after a warm-up. The subject can be made with
`python -m data.demo --out SUBJECT --frames 600 --size 512`.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from arguments import DataSettings, ModelSettings, OptimizationSettings, RefinementSettings, RunSettings, TrainSettings
from benchmarks.results import RESULTS, Results, print_kernels
from training.trainer import Trainer
from training.world import World, open_world
from utils.devices import resolve_device

NEVER = 10**9


def settings_of(
    args: argparse.Namespace, batch: int, gaussians: int, size: int, refined: bool = False,
) -> TrainSettings:
    """Settings of one measurement; `gaussians` counts those of the face, `refined`: the tracking, from step 1 on."""
    optimization = OptimizationSettings(batch_size=batch, sh_interval=0, densify_from_iter=NEVER - 1,
                                        densify_until_iter=NEVER)
    return TrainSettings(DataSettings(args.source_path, test_frames=args.test_frames, resolution=size),
                         RunSettings(Path("unused"), device=args.device),
                         ModelSettings(num_face_gaussians=gaussians, num_expressions=args.expressions), optimization,
                         RefinementSettings(refine_tracking=refined, refine_from_iter=0))


def measure(trainer: Trainer, kind: str, args: argparse.Namespace, results: Results) -> None:
    """Time one setting; `kind` distinguishes the rows of different ways of training."""
    device, world, batch = trainer.device, trainer.world, trainer.settings.optimization.batch_size
    for _ in range(args.warm_up):
        trainer.step()
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    for _ in range(args.steps):
        trainer.step()
    host = time.perf_counter() - start
    wait(device)
    seconds = time.perf_counter() - start
    setting = (f"B={batch} N={trainer.avatar.count} P={len(trainer.avatar.differences.values)} "
               f"K={world.rig.num_expressions} {world.dataset.width}x{world.dataset.height}"
               f"{' ' * bool(kind)}{kind}")
    results.add("train_images_per_s", setting, batch * args.steps / seconds, "1/s")
    print(f"  {1e3 * seconds / args.steps:.3f} ms a step, of which the host needs {1e3 * host / args.steps:.3f}")
    if device.type == "cuda":
        results.add("train_peak_memory", setting, torch.cuda.max_memory_reserved(device) / 2**30, "GiB")
        if args.profile:
            print_kernels(trainer.step, 20)


def wait(device: torch.device) -> None:
    """Until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Flags of a benchmark of training steps."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-s", "--source_path", type=Path, required=True)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--gaussians", type=int, nargs="+", default=[60_000, 100_000], help="of the face")
    parser.add_argument("--sizes", type=int, nargs="+", default=[-1], help="picture widths; -1: the subject's own")
    parser.add_argument("--expressions", type=int, default=50)
    parser.add_argument("--test_frames", type=int, default=8)
    parser.add_argument("--warm_up", type=int, default=150, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--profile", action="store_true", help="print the kernels of a step")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="name of the measured commit, where git cannot tell")
    return parser


def run(
    args: argparse.Namespace, create: Callable[[TrainSettings, World, torch.device], Trainer], kind: str,
    refined: bool = False,
) -> None:
    """Measure every combination of picture size, number of Gaussians and batch size."""
    results, device = Results(args.results, args.commit), resolve_device(args.device)
    for size in args.sizes:
        first = settings_of(args, 1, args.gaussians[0], size)
        world = open_world(first.data, first.model, 0, device)
        for gaussians, batch in itertools.product(args.gaussians, args.batch_sizes):
            settings = settings_of(args, batch, gaussians, size, refined)
            measure(create(settings, world, device), kind, args, results)
            if device.type == "cuda":
                gc.collect()  # a trainer is part of a cycle, and its memory is not to be counted for the next setting
                torch.cuda.empty_cache()


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs")
    parser.add_argument("--refined", action="store_true", help="steps that refine the tracking too")
    args = parser.parse_args()
    kind = " ".join(name for name in ("eager", "refined") if getattr(args, name))
    run(args, partial(Trainer, capture=not args.eager), kind, args.refined)


if __name__ == "__main__":
    main()
