"""From the raw file to the avatar: python -m benchmarks.video_to_avatar --video FILE --name NAME [--runs 3] [--apart]

Runs `python track.py FILE --train OUT` as a user does, each time in a process of its own, and reports the seconds from
its start to its end, those of every stage, and the scores on all held-out frames. `--apart` also runs track.py and then
train.py, as two commands, and scores what they leave. Every other flag goes to track.py (`--face_model`, and
`--train_flags` in quotes).

**Machines without MediaPipe.** `--record FILE` runs it where it is installed and keeps what it found in every picture,
with the CPU seconds that a picture takes it. `--replay FILE` then stands in for it: each detection returns what was
recorded and keeps a core busy as long as it was, in the same threads, the warming up included. What is simulated is
the detector alone, at the speed of the machine that recorded (`--picture_seconds` replaces it); MediaPipe's import and
the making of each detector are waited for as recorded too. Where PyAV is missing, OpenCV reads the video, and the
preview is written by OpenCV's encoder, which is another than PyAV's; the rows say so.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from arguments import TrainSettings, load_config
from benchmarks.quality import score
from benchmarks.replayed_detector import record, without_pyav
from benchmarks.results import RESULTS, Results
from evaluation.scores import PerceptualMetrics
from scene.checkpoint import newest_checkpoint
from tracking.workspace import MARK, load_table
from training.refinement import corrected
from training.world import open_world
from utils.devices import resolve_device

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("landmarks", "crop", "fit", "refine", "matte", "write")


def timed(command: list[str]) -> float:
    """Seconds of a command; its bars go to where ours go. Ends the benchmark where it fails."""
    print(shlex.join(command), flush=True)
    begin = time.perf_counter()
    if code := subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit(f"benchmarks.video_to_avatar: the command ended with {code}")
    return time.perf_counter() - begin


def score_of(folder: Path, device_name: str, weights: Path | None) -> tuple[dict[str, float], int]:
    """Scores of a trained run on its held-out frames, and how many there are."""
    run, device = load_config(TrainSettings, folder), resolve_device(device_name)
    checkpoint = newest_checkpoint(folder, with_training=run.refinement.refine_tracking)
    world = open_world(run.data, run.model, run.run.seed, device).swayed(checkpoint.avatar.sway)
    view = corrected(world, checkpoint, run.refinement) if run.refinement.refine_tracking else world
    networks = PerceptualMetrics.load(weights, ("alex",), world.dataset.width).to(device)
    found = score(view, checkpoint.avatar.to(device), int(checkpoint.state["sh_degree"]), networks)
    return found, len(world.dataset.test_indices)


def report(setting: str, seconds: float, folder: Path, args: argparse.Namespace, results: Results) -> None:
    """Rows of a run whose avatar lies in `folder` and whose data set in `folder`/data."""
    results.add("video_to_avatar_s", setting, seconds, "s")
    stages = load_table(folder / "data" / MARK)["seconds"]
    for stage in STAGES:
        results.add(f"video_to_avatar_{stage}_s", setting, stages.get(stage, 0.0), "s")
    scores, frames = score_of(folder, args.device, args.lpips_weights)
    for name in ("psnr", "ssim", "lpips_alex"):
        if name in scores:
            unit = "dB" if name == "psnr" else "1"
            results.add(f"video_to_avatar_{name}", f"{setting}, {frames} held-out frames", scores[name], unit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--video", type=lambda path: Path(path).resolve(), required=True)
    parser.add_argument("--name", default="", help="of the video, for the rows")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--apart", action="store_true", help="also track and train by two commands")
    parser.add_argument("--record", type=Path, help="file to keep MediaPipe's findings in; nothing else is done")
    parser.add_argument("--face_model", type=lambda path: Path(path).resolve(), help="of MediaPipe")
    parser.add_argument("--replay", type=lambda path: Path(path).resolve(), help="such a file, instead of MediaPipe")
    parser.add_argument("--picture_seconds", type=float, help="CPU seconds of a replayed detection")
    parser.add_argument("--train_flags", default="")
    parser.add_argument("--lpips_weights", type=lambda path: Path(path).resolve())
    parser.add_argument("--device", default="auto", help="of all of it")
    parser.add_argument("--keep", type=lambda path: Path(path).resolve(), help="folder for the runs, kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--commit", help="name of the measured commit, where git cannot tell")
    args, flags = parser.parse_known_args()
    if args.record is not None:
        record(args.video, args.face_model, args.record)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            measure(args, flags, args.keep or Path(temporary), Results(args.results, args.commit))


def measure(args: argparse.Namespace, flags: list[str], folder: Path, results: Results) -> None:
    """All runs and their rows."""
    flags = [*flags, "--device", args.device, *(["--face_model", str(args.face_model)] if args.face_model else [])]
    replayed = ["-m", "benchmarks.replayed_detector", str(args.replay), str(args.picture_seconds or "recorded")]
    start = replayed if args.replay else ["track.py"]
    track = [sys.executable, *start, str(args.video), *flags]
    kind = ("landmarks replayed" if args.replay else "") + (", no PyAV" if args.replay and without_pyav() else "")
    setting = ", ".join(part for part in (args.name, kind) if part)
    train_flags = [f"--train_flags={args.train_flags}"] if args.train_flags else []
    for number in range(args.runs):
        run = folder / f"together{number}"
        report(f"{setting}, one command", timed([*track, "--train", str(run), *train_flags]), run, args, results)
    if args.apart:
        run = folder / "apart"
        seconds = timed([*track, "-o", str(run / "data")])
        seconds += timed([sys.executable, "train.py", "-s", str(run / "data"), "-m", str(run), "--device", args.device,
                          *shlex.split(args.train_flags)])
        report(f"{setting}, two commands", seconds, run, args, results)


if __name__ == "__main__":
    main()
