"""What bounds each kernel, by Nsight Compute: python -m benchmarks.kernels -s SUBJECT [--gaussians 55000]

Prints a Markdown table of the kernels of one training step, and of one call of the fast renderer, with time, DRAM
traffic and shares of the chip's limits, for every combination of picture size, number of Gaussians and batch size. ncu
launches every kernel several times, by default with empty caches (--cache_control none leaves them as the launch before
left them), so times are longer than those of a step that runs freely (`benchmarks.training --profile`).
"""

from __future__ import annotations

import argparse
import csv
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.rendering import host_inputs, trained_player
from benchmarks.training import parser_of, settings_of
from player.fast import FastRenderer
from training.trainer import Trainer
from training.world import open_world
from utils.devices import resolve_device

TIME, READ, WRITTEN = "gpu__time_duration.sum", "dram__bytes_read.sum", "dram__bytes_write.sum"
DRAM_SHARE = "dram__throughput.avg.pct_of_peak_sustained_elapsed"
SM_SHARE = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
METRICS = (TIME, READ, WRITTEN, DRAM_SHARE, SM_SHARE)
# ncu's names differ between versions.
UNITS = {"byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "%": 1, "": 1,
         "nsecond": 1e-9, "usecond": 1e-6, "msecond": 1e-3, "second": 1, "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}


@dataclass
class Kernel:
    """All launches of the kernels of one name."""

    name: str
    launches: int = 0
    seconds: float = 0.0
    read: float = 0.0  # bytes, as `written`
    written: float = 0.0
    dram_share: float = 0.0  # per cent of the peak, as `sm_share`: means over the kernel's time
    sm_share: float = 0.0

    def add(self, values: dict[str, float]) -> None:
        """One more launch, its metrics by name."""
        seconds = values[TIME]
        total = self.seconds + seconds
        weight = seconds / total if total > 0 else 1.0
        self.dram_share += weight * (values[DRAM_SHARE] - self.dram_share)
        self.sm_share += weight * (values[SM_SHARE] - self.sm_share)
        self.launches, self.seconds = self.launches + 1, total
        self.read, self.written = self.read + values[READ], self.written + values[WRITTEN]


def read_launches(output: str) -> list[tuple[str, dict[str, float]]]:
    """Kernel name and metrics (seconds, bytes, per cent) of every launch in what `ncu --csv` printed.

    Lines of ncu and of the program between them are skipped. ValueError where no launch or not every metric is there.
    """
    lines = [line for line in output.splitlines() if line.startswith('"')]
    launches: dict[str, tuple[str, dict[str, float]]] = {}
    for row in csv.DictReader(lines):
        name, metric = row["Kernel Name"], row["Metric Name"]
        if metric in METRICS:
            launches.setdefault(row["ID"], (name, {}))[1][metric] = _number(row, name)
    if not launches:
        raise ValueError(f"ncu: wanted CSV with the metrics of at least one kernel, got: {output[-1000:].strip()!r}")
    for name, values in launches.values():
        missing = [metric for metric in METRICS if metric not in values]
        if missing:
            raise ValueError(f"ncu: wanted all metrics of {name}, missing are {', '.join(missing)}")
    return list(launches.values())


def _number(row: dict[str, str], kernel: str) -> float:
    text, unit = row["Metric Value"], row["Metric Unit"]
    try:
        return float(text.replace(",", "")) * UNITS[unit]
    except (KeyError, ValueError):
        wanted = f"a number with one of the units {', '.join(filter(None, UNITS))}"
        raise ValueError(f"ncu: wanted for {row['Metric Name']} of {kernel} {wanted}, got {text!r} {unit!r}") from None


def by_kernel(launches: Iterable[tuple[str, dict[str, float]]]) -> list[Kernel]:
    """The launches of each kernel together, those that take longest first."""
    kernels: dict[str, Kernel] = {}
    for name, values in launches:
        kernels.setdefault(name, Kernel(name)).add(values)
    return sorted(kernels.values(), key=lambda kernel: -kernel.seconds)


def markdown(kernels: list[Kernel]) -> str:
    """A table of kernels, their sum in the last row."""
    seconds, launches = sum(k.seconds for k in kernels), sum(k.launches for k in kernels)
    read, written = sum(k.read for k in kernels), sum(k.written for k in kernels)
    lines = ["| kernel | launches | us | % of time | MB read | MB written | GB/s | DRAM, % of peak | SM, % of peak |",
             "|---|---|---|---|---|---|---|---|---|"]
    for k in kernels:
        lines.append(f"| {k.name} | {k.launches} | {1e6 * k.seconds:.1f} | {100 * k.seconds / seconds:.1f} "
                     f"| {k.read / 1e6:.1f} | {k.written / 1e6:.1f} | {_rate(k.read + k.written, k.seconds):.0f} "
                     f"| {k.dram_share:.0f} | {k.sm_share:.0f} |")
    lines.append(f"| **all** | {launches} | {1e6 * seconds:.1f} | 100 | {read / 1e6:.1f} | {written / 1e6:.1f} "
                 f"| {_rate(read + written, seconds):.0f} | | |")
    return "\n".join(lines)


def _rate(amount: float, seconds: float) -> float:
    """Gigabytes a second."""
    return 1e-9 * amount / seconds if seconds > 0 else 0.0


def launch(args: argparse.Namespace) -> None:
    """What runs under ncu: warms up, then launches the kernels of interest between profiler start and stop."""
    device = resolve_device(args.device)
    action = training_step(args, device) if args.launch == "step" else rendered_frames(args)
    action()
    torch.cuda.synchronize(device)
    torch.cuda.profiler.start()
    action()
    torch.cuda.synchronize(device)
    torch.cuda.profiler.stop()


def training_step(args: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    """A plain step: its kernels are those of the captured one."""
    settings = settings_of(args, args.batch_sizes[0], args.gaussians[0], args.sizes[0], args.refined)
    trainer = Trainer(settings, open_world(settings.data, settings.model, 0, device), device, capture=False)
    for _ in range(args.warm_up):
        trainer.step()
    return trainer.step


def rendered_frames(args: argparse.Namespace) -> Callable[[], object]:
    """A call of the fast renderer; ncu looks into its graph."""
    args.train_steps = args.warm_up
    player, batch = trained_player(args, args.gaussians[0]), args.batch_sizes[0]
    size = player.clip.width if args.sizes[0] == -1 else args.sizes[0]
    (codes, cameras), = host_inputs(player, 1, batch, size)
    renderer = FastRenderer(player, cameras.width, cameras.height, batch)
    return lambda: renderer.render(codes, cameras)


def profile(args: argparse.Namespace, given: list[str], what: str, size: int, gaussians: int, batch: int) -> str:
    """The table of one setting; `given` are this program's own flags. SystemExit where ncu fails."""
    command = [args.ncu, "--csv", "--print-units", "base", "--print-kernel-base", "function",
               "--profile-from-start", "off", "--clock-control", "none", "--cache-control", args.cache_control,
               "--metrics", ",".join(METRICS), sys.executable, "-m", "benchmarks.kernels", *given, "--launch", what,
               "--sizes", str(size), "--gaussians", str(gaussians), "--batch_sizes", str(batch)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise SystemExit(f"--ncu: {args.ncu} was not found; it is part of the CUDA toolkit (Nsight Compute)") from None
    if done.returncode:
        raise SystemExit(f"ncu ended with {done.returncode}: {done.stdout[-2000:].strip()}")
    return markdown(by_kernel(read_launches(done.stdout)))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--of", nargs="+", choices=("step", "frame"), default=["step", "frame"])
    parser.add_argument("--refined", action="store_true", help="a step that refines the tracking too")
    parser.add_argument("--ncu", default="ncu", help="the command")
    parser.add_argument("--cache_control", choices=("all", "none"), default="all", help="all: empty before each launch")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument("--launch", choices=("step", "frame"), help=argparse.SUPPRESS)
    parser.set_defaults(batch_sizes=[1, 8], gaussians=[100_000], warm_up=20)
    args = parser.parse_args()
    if args.launch:
        launch(args)
        return
    tables = []
    for size, gaussians, batch, what in itertools.product(args.sizes, args.gaussians, args.batch_sizes, args.of):
        title = f"{what}, {gaussians} Gaussians of the face, batch {batch}, width {'own' if size == -1 else size}"
        tables.append(f"### {title}\n\n{profile(args, sys.argv[1:], what, size, gaussians, batch)}\n")
        print(tables[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(tables))


if __name__ == "__main__":
    main()
