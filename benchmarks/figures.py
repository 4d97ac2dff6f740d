"""Every figure of README.md and docs/performance.md: python -m benchmarks.figures --part PART [...]

    python -m benchmarks.figures --part default --clip1 DIR --clip2 DIR --demo DIR --devices 0 1    # measures
    python -m benchmarks.figures --merge ROWS.csv        # appends rows that another machine measured
    python -m benchmarks.figures --write                 # renews the tables of both pages from results.csv

| part | what it measures | needs |
|---|---|---|
| default | whole runs with the default settings, three seeds | --clip1 --clip2 --demo |
| compared | the default without refinement; the method's 40,000 steps, refined and not | --clip1 --clip2 --demo |
| training | training images/s of a new avatar | --demo |
| play | frames/s of playing | --demo |
| raster | the rasterizer alone | --captured |
| subject | `make demo` on the CPU (about seven minutes) | |

A part takes less than ten minutes on two GPUs. On one, `--subjects` divides the first two. The subjects: clip 1 and
clip 2, data sets of real people, last 100 frames held out; the demo subject, last 350 held out, which
`python -m data.demo --out DIR --frames 600 --size 512` makes.

Each measurement is a process of its own that sees one GPU of `--devices` ("cpu": none) and runs another program of this
folder; a GPU has one at a time. A failed one is reported at the end, exit code 1; the rows of the others are kept.
`--small` makes everything tiny, to see that it runs; its rows are no figures, so it needs `--results`.
"""

from __future__ import annotations

import argparse
import os
import queue
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages import renew
from benchmarks.results import RESULTS, append_rows, begin

ROOT = Path(__file__).resolve().parents[1]
SUBJECTS = {"clip 1": ("clip1", 100), "clip 2": ("clip2", 100), "demo subject": ("demo", 350)}  # flag, held out
SEEDS = (0, 1, 2)
UNREFINED = ("--refine_tracking", "False")
METHOD = ("--batch_size", "1", "--alpha_loss", "10", "--basis_lr_decay", "1", "--difference_position_lr", "3.2e-7",
          "--densification_interval", "100", "--densify_grad_threshold", "1e-3", "--prune_unseen", "0",
          "--lpips_loss", "0", "--sway_lr", "0")  # docs/training.md: the published method's own
METHOD_STEPS = 40_000
PARTS = ("default", "compared", "training", "play", "raster", "subject")
SMALL = {
    "quality": ("-r", "32", "--batch_size", "1", "--num_face_gaussians", "300", "--num_teeth_gaussians", "20"),
    "training": ("--sizes", "32", "--gaussians", "300", "--batch_sizes", "1", "--warm_up", "1", "--steps", "2",
                 "--test_frames", "2"),
    "rendering": ("--sizes", "32", "--gaussians", "300", "--batch_sizes", "1", "--train_steps", "2", "--frames", "10",
                  "--test_frames", "2"),
    "rasterizer": ("--size", "32", "--repeats", "2", "--batches", "1"),
}
SMALL_STEPS = 4


@dataclass(frozen=True)
class Job:
    """One program of this folder and its flags."""

    program: str
    flags: tuple[str, ...]

    def command(self, args: argparse.Namespace) -> list[str]:
        """What is run; `--small` overrides sizes given earlier on the line."""
        small = SMALL.get("training" if self.program == "naive" else self.program, ()) if args.small else ()
        common = ["--results", str(args.results)]
        if args.commit:
            common += ["--commit", args.commit]
        if args.lpips_weights and self.program in ("quality", "subject"):
            common += ["--lpips_weights", str(args.lpips_weights)]
        return [sys.executable, "-m", f"benchmarks.{self.program}", *self.flags, *small, *common]


def whole_run(args: argparse.Namespace, subject: str, label: str, iterations: int | None, *flags: str) -> Job:
    """A training from the command line, timed and scored."""
    flag, held_out = SUBJECTS[subject]
    steps = SMALL_STEPS if args.small else iterations
    return Job("quality", ("-s", str(getattr(args, flag)), "--name", subject, "--label", label,
                           *(("--iterations", str(steps)) if steps else ()),
                           "--test_frames", "2" if args.small else str(held_out), *flags))


def jobs_of(part: str, args: argparse.Namespace) -> list[Job]:
    """The measurements of one part, longest first."""
    if part == "default":
        return [whole_run(args, subject, f"default, seed {seed}", None, "--seed", str(seed))
                for subject in args.subjects for seed in SEEDS]
    if part == "compared":
        ways = (("method's settings, refined", METHOD_STEPS, METHOD),
                ("method's settings, not refined", METHOD_STEPS, (*METHOD, *UNREFINED)),
                ("default, not refined", None, UNREFINED))
        return [whole_run(args, subject, label, steps, *flags) for label, steps, flags in ways
                for subject in args.subjects]
    demo = ("-s", str(args.demo))
    sizes = ("--sizes", "512", "--gaussians", "55000", "100000")
    if part == "training":
        return [Job("training", (*demo, *sizes, "--batch_sizes", "1", "2", "4", "8", "16")),
                Job("training", (*demo, *sizes, "--batch_sizes", "1", "8", "--refined")),
                Job("training", (*demo, *sizes, "--batch_sizes", "1", "8", "--eager")),
                Job("naive", (*demo, *sizes))]
    if part == "play":
        return [Job("rendering", (*demo, "--gaussians", "100000"))]
    if part == "raster":
        return [Job("rasterizer", (str(args.captured),))]
    return [Job("subject", ("--out", str(args.demo_out)))]


def missing_flags(args: argparse.Namespace) -> list[str]:
    """Folders and files that the wanted parts need and that were not given or are not there."""
    wanted = {SUBJECTS[subject][0] for subject in args.subjects if {"default", "compared"} & set(args.part)}
    wanted |= {"demo"} if {"training", "play"} & set(args.part) else set()
    wanted |= {"captured"} if "raster" in args.part else set()
    return [f"--{flag}" for flag in sorted(wanted) if getattr(args, flag) is None or not getattr(args, flag).exists()]


def environment(device: str) -> dict[str, str]:
    """A process's environment that leaves it one GPU, or none."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "" if device == "cpu" else device}


def run(jobs: Sequence[Job], args: argparse.Namespace) -> list[str]:
    """Run all, each device one after the other; the commands that failed."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    failed: list[str] = []

    def work(device: str) -> None:
        while True:
            try:
                command = waiting.get_nowait().command(args)
            except queue.Empty:
                return
            print(f"==> on {device}: {shlex.join(command)}", flush=True)
            if subprocess.run(command, cwd=ROOT, env=environment(device), check=False).returncode:
                failed.append(shlex.join(command))

    workers = [threading.Thread(target=work, args=(device,)) for device in args.devices]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return failed


def parse() -> argparse.Namespace:
    """The flags, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=[])
    parser.add_argument("--subjects", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    for flag, text in (("clip1", "data set"), ("clip2", "data set"), ("demo", "data set"), ("captured", ".npz")):
        parser.add_argument(f"--{flag}", type=lambda path: Path(path).resolve(), help=text)
    parser.add_argument("--demo_out", type=Path, default=Path("output/demo"), help="of part subject")
    parser.add_argument("--lpips_weights", type=lambda path: Path(path).resolve())
    parser.add_argument("--devices", "--device", nargs="+", default=["0"], help="numbers of GPUs, or cpu")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--results", type=lambda path: Path(path).resolve(), default=RESULTS)
    parser.add_argument("--commit", help="name of the measured commit, where git cannot tell")
    parser.add_argument("--merge", type=Path, help="rows to append to --results")
    parser.add_argument("--write", action="store_true", help="renew the tables of the pages")
    args = parser.parse_args()
    if not (args.part or args.merge or args.write):
        parser.error("nothing to do: give --part, --merge or --write")
    if args.small and args.results == RESULTS:
        parser.error("--small: its rows are no figures; give another file with --results")
    if missing := missing_flags(args):
        parser.error(f"{', '.join(missing)}: wanted for --part {' '.join(args.part)}; not given, or not there")
    return args


def main() -> None:
    args = parse()
    begin(args.results)
    if args.merge:
        print(f"{append_rows(args.merge, args.results)} rows appended to {args.results}")
    failed = run([job for part in args.part for job in jobs_of(part, args)], args)
    if args.write:
        for page in renew(args.results):
            print(f"renewed: {page}")
    if failed:
        sys.exit("these failed:\n  " + "\n  ".join(failed))


if __name__ == "__main__":
    main()
