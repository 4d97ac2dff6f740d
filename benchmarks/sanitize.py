"""Memory and race checks of the CUDA kernels: python -m benchmarks.sanitize -s SUBJECT [--timeout 300]

Runs NVIDIA's compute-sanitizer over small training runs and prints one line for each: memcheck and racecheck over plain
steps with densification, memcheck over captured steps. Exits with 1 where anything was found or a run failed. A subject
of a few small frames is enough: python -m data.demo --out SUBJECT --frames 8 --size 64. torch's own kernels are left
out: they are many, and each that is checked costs seconds.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from arguments import DataSettings, ModelSettings, OptimizationSettings, RefinementSettings, RunSettings, TrainSettings
from gaussian_renderer.capture import WARM_UP
from training.trainer import Trainer
from training.world import open_world
from utils.devices import resolve_device

RUNS = (("memcheck", "plain"), ("racecheck", "plain"), ("memcheck", "captured"))
SCALE = 0.01  # of the schedule: Gaussians densify in steps 6, 7, 8 ... and the SH degree rises in step 10
STEPS = 12
# torch hands out parts of large pieces of memory, within which nobody sees a wrong access; a graph needs it to.
SEPARATE = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
SHOWN = 6000  # characters of a tool's output: the first error is the one that matters
SUMMARY = re.compile(r"^=+ (?:ERROR|RACECHECK) SUMMARY: (\d+) .*$", re.MULTILINE)


def create_trainer(subject: Path, captured: bool, device: torch.device) -> Trainer:
    """A small avatar: with densification and rising SH degree, or all of its degrees and steps as one graph."""
    optimization = OptimizationSettings(batch_size=2, schedule_scale=SCALE, densify=not captured,
                                        sh_interval=0 if captured else 1000)
    settings = TrainSettings(DataSettings(subject, test_frames=2), RunSettings(Path("unused")),
                             ModelSettings(num_face_gaussians=300, num_teeth_gaussians=20), optimization,
                             RefinementSettings(refine_from_iter=0))
    return Trainer(settings, open_world(settings.data, settings.model, 0, device), device, capture=captured)


def train(subject: Path, way: str, device: torch.device) -> None:
    """What runs under the sanitizer. RuntimeError where the steps did not do what they are there for."""
    trainer = create_trainer(subject, way == "captured", device)
    before, steps = trainer.avatar.count, WARM_UP + 4 if way == "captured" else STEPS
    for _ in range(steps):
        trainer.step()
    if way == "plain" and trainer.avatar.count == before:
        raise RuntimeError(f"{STEPS} steps: wanted densification to change {before} Gaussians, got as many")
    if way == "captured" and (trainer.captured is None or not trainer.captured.captures):
        raise RuntimeError(f"{steps} steps: wanted a captured graph, got plain steps only")
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def verdict(output: str, status: int) -> tuple[bool, str]:
    """(nothing found, what to say) of a sanitizer's output and exit status."""
    found = SUMMARY.findall(output)
    if status or not found:
        last = [line for line in output.splitlines() if line.strip()][-1:] or ["no output"]
        return False, f"failed with status {status}: {last[0]}"
    summary = [match.group(0).strip("= ") for match in SUMMARY.finditer(output)]
    return not any(map(int, found)), "; ".join(summary)


def check(tool: str, way: str, args: argparse.Namespace) -> bool:
    """Run one tool over one kind of run; whether it found nothing."""
    command = [args.sanitizer, "--tool", tool, "--print-limit", "5", "--kernel-name-exclude", "kernel_substring=at::",
               sys.executable, "-m", "benchmarks.sanitize", "-s", str(args.source_path), "--device", args.device,
               "--train", way]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=args.timeout, env=os.environ | (SEPARATE if way == "plain" else {}))
        clean, text = verdict(done.stdout, done.returncode)
    except FileNotFoundError:
        raise SystemExit(f"--sanitizer: {args.sanitizer} was not found; it is part of the CUDA toolkit") from None
    except subprocess.TimeoutExpired:
        done, clean, text = None, False, f"not done after {args.timeout} s"
    print(f"{tool:9} {way:8} {text}", flush=True)
    if not clean and done is not None:
        print(done.stdout[:SHOWN], "[...]" if len(done.stdout) > SHOWN else "", flush=True)
    return clean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-s", "--source_path", type=Path, required=True)
    parser.add_argument("--sanitizer", default="compute-sanitizer", help="the command")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for each run")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--train", choices=("plain", "captured"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.source_path, args.train, resolve_device(args.device))
        return
    clean = [check(tool, way, args) for tool, way in RUNS]
    sys.exit(0 if all(clean) else 1)


if __name__ == "__main__":
    main()
