"""Quality and time of a whole run: python -m benchmarks.quality -s DATA --name NAME [--steps 4] [FLAGS of train.py]

Starts `python train.py` in a process of its own and scores what it leaves on all held-out frames: PSNR, SSIM, LPIPS as
test.py does, with the corrections of a run that refines its tracking. Rows of the run: seconds of the whole command,
average images/s from its first step to its last, and the most memory that its GPU had in use, the CUDA context
included. `--protocols` scores the finished run in other ways too, each with rows of its own. Every other flag goes to
train.py. `--label` names the setting in the rows.

`--steps 1` (the default) runs the command as a user does. More steps are checkpoints on the way, each with a row that
says after how many seconds it was complete; such a run scores no pictures of its own meanwhile.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from arguments import TestSettings, TrainSettings, load_config
from benchmarks.gpu_memory import GpuMemory
from benchmarks.results import RESULTS, Results
from evaluation.scores import PerceptualMetrics, measure, measure_perceptual
from scene.avatar import Avatar
from scene.checkpoint import load_checkpoint
from scene.run_folder import STATE_FILE, list_checkpoints
from training.fitting import fit_tracking, lpips_of_fits
from training.log import CSV_NAME
from training.refinement import corrected
from training.world import World, open_world, render_on_black
from utils.devices import resolve_device
from utils.metrics import HEAD_ALPHA, on_black

ROOT = Path(__file__).resolve().parents[1]
BATCH = 4  # frames scored together


class Run(NamedTuple):
    """A finished training."""

    checkpoints: list[tuple[Path, float]]  # each with the seconds after which it was complete
    seconds: float                         # of the whole command
    gib: float | None                      # the most that its GPU had in use; None without a GPU


def train(
    folder: Path, source: Path, iterations: int | None, steps: int, flags: list[str], processes: int = 1
) -> Run:
    """Train in a process of its own, or in several (with the memory of the first one's GPU)."""
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else []), "train.py", "-s", str(source), "-m", str(folder),
               *flags]
    if iterations is not None:
        command += ["--iterations", str(iterations)]
    if steps > 1:
        assert iterations is not None
        command += ["--checkpoint_interval", str(max(1, iterations // steps)), "--keep_checkpoints", "0",
                    "--test_views", "0"]
    print(shlex.join(command), flush=True)
    start = time.time()
    with GpuMemory() as memory:
        process = subprocess.run(command, cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True)
    seconds = time.time() - start
    if process.returncode:
        sys.exit(f"benchmarks.quality: train.py ended with {process.returncode}:\n{process.stderr[-2000:]}")
    found = list_checkpoints(folder / "checkpoints")
    if steps == 1:
        found = found[-1:]
    return Run([(path, (path / STATE_FILE).stat().st_mtime - start) for path in found], seconds, memory.most)


def report_run(run: Run, folder: Path, batch_size: int, setting: str, results: Results) -> None:
    """Rows of the whole run."""
    results.add("run_seconds", setting, run.seconds, "s")
    with open(folder / CSV_NAME, newline="") as file:
        last = list(csv.DictReader(file))[-1]
    results.add("run_images_per_s", setting, batch_size * int(last["iteration"]) / float(last["seconds"]), "1/s")
    results.add("run_gaussians", setting, int(last["gaussians"]), "1")
    if run.gib is not None:
        results.add("run_gpu_memory", setting, run.gib, "GiB")


def score(world: World, avatar: Avatar, sh_degree: int, networks: PerceptualMetrics) -> dict[str, float]:
    """Means over all held-out frames, as test.py computes them."""
    rows: list[dict[str, float]] = []
    device = avatar.neutral.device
    held_out = world.dataset.test_indices.tolist()
    for start in range(0, len(held_out), BATCH):
        frames = held_out[start:start + BATCH]
        image, _ = render_on_black(world, avatar, sh_degree, frames)
        rgba = world.dataset.rgba_batch(frames).to(device)
        target, prediction = on_black(rgba, image)
        masks = {"head": rgba[..., 3] >= HEAD_ALPHA}
        perceptual = measure_perceptual(networks, prediction, target, masks)
        rows += [a | b for a, b in zip(measure(prediction, target, masks), perceptual, strict=True)]
    return {name: _mean(row[name] for row in rows if name in row) for name in sorted({n for row in rows for n in row})}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def report(folder: Path, trained: Run, args: argparse.Namespace, results: Results) -> None:
    """Rows of a run, score its checkpoints: a row of time for each of several, rows of quality for the last."""
    run = load_config(TrainSettings, folder)
    device = resolve_device(args.device)
    world = open_world(run.data, run.model, run.run.seed, device)
    networks = PerceptualMetrics.load(args.lpips_weights, ("alex", "vgg"), world.dataset.width).to(device)
    setting = f"{args.name}, {args.label}, {world.dataset.width}x{world.dataset.height}"
    report_run(trained, folder, run.optimization.batch_size, setting, results)
    scores: dict[str, float] = {}
    refined = run.refinement.refine_tracking
    for path, seconds in trained.checkpoints:
        checkpoint = load_checkpoint(path, with_training=refined)
        avatar, degree = checkpoint.avatar.to(device), int(checkpoint.state["sh_degree"])
        world = world.swayed(checkpoint.avatar.sway)
        view = corrected(world, checkpoint, run.refinement) if refined else world
        scores = score(view, avatar, degree, networks)
        if len(trained.checkpoints) > 1:
            text = " ".join(f"{name}={scores[name]:.4f}" for name in ("psnr", "ssim", "lpips_alex", "lpips_vgg")
                            if name in scores)
            reached = f"{setting}, {checkpoint.iteration} steps, N={avatar.count}: {text}"
            results.add("time_to_quality", reached, seconds, "s")
    frames = world.dataset.test_indices.tolist()
    report_scores(scores, f"{setting}, {len(frames)} held-out frames", results)
    for protocol in args.protocols:
        seen = protocol == "seen"
        other = fit_tracking(view, avatar, degree, frames, TestSettings.seen_steps, BATCH,
                             perceptual=lpips_of_fits(args.lpips_weights, view)) if seen else world
        setting_of = f"{setting}, {protocol.replace('_', ' ')}, {len(frames)} held-out frames"
        report_scores(score(other, avatar, degree, networks), setting_of, results)


def report_scores(scores: dict[str, float], setting: str, results: Results) -> None:
    """A row for each score."""
    for name, value in scores.items():
        results.add(f"quality_{name}", setting, value, "dB" if name.endswith("psnr") else "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-s", "--source_path", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of the data set, for the rows")
    parser.add_argument("--label", default="default", help="of the settings, for the rows")
    parser.add_argument("--iterations", type=int, help="left to train.py without the flag")
    parser.add_argument("--steps", type=int, default=1, help="checkpoints to score; several need --iterations")
    parser.add_argument("--protocols", nargs="*", default=[], choices=("as_tracked", "seen"),
                        help="of test.py, to score beside the predicted tracking")
    parser.add_argument("--processes", type=int, default=1, help="that train together, each on a GPU of its own")
    parser.add_argument("--lpips_weights", type=Path, help="of the scoring and of train.py")
    parser.add_argument("--device", default="auto", help="of the scoring; train.py gets its own --device")
    parser.add_argument("--keep", type=Path, help="folder for the run, kept; otherwise it is temporary")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="name of the measured commit, where git cannot tell")
    args, flags = parser.parse_known_args()
    if args.steps > 1 and args.iterations is None:
        parser.error("--steps: several checkpoints are spread over --iterations, which is wanted, too")
    if args.lpips_weights:
        flags += ["--lpips_weights", str(args.lpips_weights)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary) / "run"
        trained = train(folder, args.source_path, args.iterations, args.steps, flags, args.processes)
        report(folder, trained, args, Results(args.results, args.commit))


if __name__ == "__main__":
    main()
