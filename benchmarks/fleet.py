"""How long many avatars take together: python -m benchmarks.fleet --subjects 20 --out FOLDER [--write]

Generates demo subjects of different seeds (kept in FOLDER/subjects), runs fleet.py on them, and compares the wall time
with what the stages took. --videos films them before a wall first, so that tracking is part of it. --standings 10000
measures what the page of so many finished subjects costs, on records without avatars.

On two cores, in minutes:

    python -m benchmarks.fleet --subjects 20 --out FOLDER

Eight subjects with default settings on a machine with GPUs:

    python -m benchmarks.fleet --subjects 8 --frames 600 --size 512 --videos --cpus 8 --train "" --test "" --out FOLDER
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.results import RESULTS, Results
from orchestration.stages import STAGES, Place
from utils.atomic import write_json
from utils.images import read_rgba
from utils.video import write_video

ROOT = Path(__file__).resolve().parents[1]
WALL = np.array([184, 178, 168], np.float32)  # plain, of no colour that hair or skin has
TINY = ("--iterations 100 --batch_size 1 --num_face_gaussians 3000 --num_teeth_gaussians 200 --test_frames 8 "
        "--refine_tracking False --tensorboard False")


def generate(folder: Path, args: argparse.Namespace) -> Path:
    """The demo subjects, those that are not there yet, one core each; returns the folder for fleet.py."""
    def draw(seed: int) -> None:
        target = folder / f"person{seed:03}"
        command = [sys.executable, "-m", "data.demo", "--out", str(target), "--frames", str(args.frames), "--size",
                   str(args.size), "--seed", str(seed), "--workers", "1"]
        if not target.exists():
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        if args.videos:
            film(target, folder.with_name("videos") / f"{target.name}.mp4")

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(args.cores) as pool:
        list(pool.map(draw, range(1, args.subjects + 1)))
    return folder.with_name("videos") if args.videos else folder


def film(subject: Path, path: Path) -> None:
    """A subject's pictures before a wall, as a camera would have seen them."""
    with write_video(path) as add:
        for picture in sorted((subject / "images").glob("*.png")):
            rgba = read_rgba(picture).astype(np.float32)
            alpha = rgba[..., 3:] / 255
            add(np.rint(rgba[..., :3] * alpha + WALL * (1 - alpha)).astype(np.uint8))


def usage(folder: Path) -> tuple[int, int]:
    """Bytes on the disk below a folder, each file once however many links it has; and the number of files."""
    files = {(info.st_dev, info.st_ino): info.st_blocks * 512
             for path in folder.rglob("*") if path.is_file() for info in (path.stat(),)}
    return sum(files.values()), len(files)


def run_fleet(subjects: Path, out: Path, args: argparse.Namespace) -> float:
    """fleet.py to its end; seconds."""
    command = [sys.executable, str(ROOT / "fleet.py"), str(subjects), "-o", str(out), "--scheduler", args.scheduler,
               "--cpus", str(args.cpus), "--gpus", str(args.gpus), f"--train={args.train}", f"--test={args.test}"]
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    return time.perf_counter() - begin


def measure(args: argparse.Namespace, results: Results) -> None:
    """One run of all subjects, and a second call that finds everything done."""
    subjects, out = generate(args.out / "subjects", args), args.out / f"run-{time.time():.0f}"
    wall = run_fleet(subjects, out, args)
    again = run_fleet(subjects, out, args)
    with open(out / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    kind = "videos" if args.videos else "data sets"
    setting = f"{len(rows)} {kind}, {args.frames} frames, {args.scheduler}, {args.cpus} of {args.cores} cores each"
    stages = {name: sum(float(row[f"{name}_seconds"] or 0) for row in rows) for name in ("track", "train", "test")}
    results.add("fleet_wall", setting, wall, "s")
    results.add("fleet_second_call", setting, again, "s")
    for name, seconds in stages.items():
        results.add(f"fleet_{name}", setting, seconds / len(rows), "s")
    results.add("fleet_at_a_time", setting, sum(stages.values()) / wall, "")
    for name in ("data", "avatars", "logs"):
        size, files = usage(out / name)
        results.add(f"fleet_{name}_disk", setting, size / len(rows) / 2**20, "MiB")
        results.add(f"fleet_{name}_files", setting, files / len(rows), "")


def measure_standings(args: argparse.Namespace, results: Results) -> None:
    """`fleet.py --status` on records of subjects that are finished."""
    data, out = args.out / "standings" / "data", args.out / "standings" / "out"
    (data / "checkpoint").mkdir(parents=True, exist_ok=True)
    table = args.out / "standings" / "list.csv"
    names = [f"person{number:06}" for number in range(args.standings)]
    table.write_text("source,name\n" + "".join(f"data,{name}\n" for name in names))
    scores = {"psnr": 30.0, "ssim": 0.95, "lpips_alex": 0.05, "lpips_vgg": 0.1}
    for name in names:
        avatar = Place(out.absolute(), name).product(STAGES["test"])
        if not avatar.exists():
            flags = {"flags": {}, "seconds": 50.0}
            write_json(avatar / "fleet.train.json", {**flags, "source": str(data.absolute())})
            write_json(avatar / "fleet.test.json", {**flags, "frames": 100, "scores": scores})
    begin = time.perf_counter()
    command = [sys.executable, str(ROOT / "fleet.py"), str(table), "-o", str(out), "--status"]
    subprocess.run(command, cwd=ROOT, check=True)
    setting = f"{args.standings} finished subjects"
    results.add("fleet_status", setting, time.perf_counter() - begin, "s")
    results.add("fleet_status_memory", setting, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10, "MiB")
    results.add("fleet_page", setting, (out / "index.html").stat().st_size / 2**20, "MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--videos", action="store_true", help="begin with raw videos: tracking is measured, too")
    parser.add_argument("--scheduler", choices=["ray", "local"], default="ray")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="of this machine")
    parser.add_argument("--cpus", type=int, default=1, help="of a stage")
    parser.add_argument("--gpus", type=float, default=1.0, help="of a training")
    parser.add_argument("--train", default=TINY)
    parser.add_argument("--test", default="--lpips --video False", help="flags of test.py")
    parser.add_argument("--standings", type=int, default=0, help="only measure --status on so many finished subjects")
    parser.add_argument("--write", action="store_true", help="append the figures to results.csv")
    args = parser.parse_args()
    results = Results(RESULTS if args.write else None)
    (measure_standings if args.standings else measure)(args, results)


if __name__ == "__main__":
    main()
