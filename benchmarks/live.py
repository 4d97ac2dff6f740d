"""How live live.py is, and how good its avatar after 20, 40 and 60 s:

    python -m benchmarks.live FILM --work FOLDER [--landmarks FILE.npz] [--device cuda] [--csv] [FLAGS of live.py]

Plays FILM as the camera (OpenCV reads it; PyAV is not needed) for the last of `--at` seconds, without a page. Where
MediaPipe cannot be installed, `--landmarks` takes what `python -m online.recorded_landmarks FILM -o FILE.npz` found on
another machine; the detector's own time is then missing from the delays (`--detector_ms` waits it out instead).

Measured: seconds from the first picture to the first drawn avatar; delay from a picture's arrival to the drawn avatar;
how long pictures waited to be looked at; pictures learnt from. Quality: the newest `--test_frames` pictures never
train. The avatar as it was at each of `--at` seconds is scored on them, over the head's tight crop on black, with pose
and codes as tracked and, as in test.py's protocol "seen", fitted to each picture. Beside it the offline run: a new
training on the same data set with train.py's own number of steps (without LPIPS, as live.py trains). Further arguments
go to live.py.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from arguments import ONE_CAMERA, TestSettings, parse_flags
from arguments.live_settings import LiveSettings
from benchmarks.results import RESULTS, Results
from live import check, keep
from online.recorded_landmarks import RecordedDetector
from online.session import Events, Session, run_folder, train_settings
from scene.avatar import Avatar
from tracking.detector import Detector, Face
from tracking.footage import ByteImage
from training.fitting import fit_tracking
from training.trainer import Trainer
from training.world import World, open_world, render_on_black
from utils.devices import resolve_device
from utils.metrics import psnr
from utils.seeding import seed_everything

BATCH = 4  # frames scored together


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The avatar as it was after so many seconds."""

    seconds: float
    iteration: int
    sh_degree: int
    frames: int
    avatar: Avatar


class Snapshots:
    """Copies the avatar at each of the moments `at` (seconds since the first picture), or at the first step after."""

    def __init__(self, at: list[float]) -> None:
        self._due = sorted(at)
        self.taken: list[Snapshot] = []

    def __call__(self, trainer: Trainer, events: Events) -> None:
        now = events.since()
        if self._due and now >= self._due[0]:
            self._due = [moment for moment in self._due if moment > now]
            self.taken.append(snapshot(trainer, now))


def snapshot(trainer: Trainer, seconds: float) -> Snapshot:
    """A copy of a trainer's avatar on the CPU."""
    trainer.calibrate()
    copy = trainer.avatar.to(torch.device("cpu"))
    with torch.no_grad():
        copy.neutral = copy.neutral.detach().clone()
        copy.differences = replace(copy.differences, values=copy.differences.values.detach().clone())
    return Snapshot(seconds, trainer.iteration, trainer.sh_degree, len(trainer.world.clip), copy)


class SlowDetector:
    """Landmarks found beforehand that take as long as the detector would."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._detector, self._seconds = RecordedDetector(path), seconds

    def detect(self, rgb: ByteImage, time_of_picture: float) -> list[Face]:
        time.sleep(self._seconds)
        return self._detector.detect(rgb, time_of_picture)


def slow_detector(path: Path, seconds: float) -> Detector:
    """For another process."""
    return SlowDetector(path, seconds)


def score(world: World, avatar: Avatar, sh_degree: int, device: torch.device) -> dict[str, float]:
    """Mean PSNR (dB, on black) of the held-out frames as tracked and seen."""
    frames, here = world.dataset.test_indices.tolist(), avatar.to(device)
    world = world.swayed(avatar.sway)
    seen = fit_tracking(world, here, sh_degree, frames, TestSettings.seen_steps, BATCH)
    found = {}
    for name, place in (("as tracked", world), ("seen", seen)):
        values = []
        for start in range(0, len(frames), BATCH):
            numbers = frames[start:start + BATCH]
            image, _ = render_on_black(place, here, sh_degree, numbers)
            rgba = world.dataset.rgba_batch(numbers).to(device).float() / 255
            target = (rgba[..., :3] * rgba[..., 3:]).permute(0, 3, 1, 2)
            values += psnr(image.clamp(0, 1), target).tolist()
        found[name] = float(np.mean(values))
    return found


def offline(settings: LiveSettings, world: World, device: torch.device, iterations: int) -> Trainer:
    """A training of train.py's kind on the data set that was recorded."""
    optimization = replace(settings.optimization, iterations=iterations)
    trainer = Trainer(replace(train_settings(settings), optimization=optimization), world, device)
    for _ in tqdm(range(iterations), "offline", unit="step"):
        trainer.step()
    return trainer


def measure(settings: LiveSettings, device: torch.device, args: argparse.Namespace, results: Results) -> None:
    """One sitting and its rows."""
    snapshots = Snapshots(args.at)
    detector = None
    if settings.landmarks is not None and args.detector_ms:
        detector = partial(slow_detector, settings.landmarks, args.detector_ms / 1000)
    session = Session(settings, device, detector=detector, on_step=snapshots)
    trainer = session.run()
    keep(trainer, settings)
    events, film = session.events, args.film.stem
    size = trainer.world.clip.width
    setting = f"{film}, {size}x{size}"
    results.add("live_first_avatar", setting, events.first_avatar, "s")
    for name, values in (("delay", list(events.delays)), ("wait", events.waits)):
        for share in (50, 95, 100):
            if values:
                results.add(f"live_{name}", f"{setting}, {share} % of pictures below",
                            1e3 * float(np.percentile(values, share)), "ms")
    results.add("live_rate", f"{setting}, pictures looked at", events.looked / max(args.at), "1/s")
    world = open_world(train_settings(settings).data, settings.model, settings.seed, device)
    for taken in [*snapshots.taken, snapshot(trainer, float("inf"))]:
        when = "at the end" if np.isinf(taken.seconds) else f"after {taken.seconds:.0f} s"
        for name, value in score(world, taken.avatar, taken.sh_degree, device).items():
            results.add("live_psnr", f"{setting}, {when} ({taken.iteration} steps, {taken.frames} pictures), {name}",
                        value, "dB")
    if args.offline:
        begun = time.perf_counter()
        other = offline(settings, world, device, args.offline)
        seconds = time.perf_counter() - begun
        for name, value in score(world, other.avatar, other.sh_degree, device).items():
            results.add("live_psnr", f"{setting}, offline ({args.offline} steps, {seconds:.0f} s), {name}", value, "dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for the run, which is emptied")
    parser.add_argument("--at", type=float, nargs="+", default=[20.0, 40.0, 60.0], help="seconds; the last one ends it")
    parser.add_argument("--detector_ms", type=float, default=0.0, help="with --landmarks: what a look should take")
    parser.add_argument("--offline", type=int, default=ONE_CAMERA["optimization"]["iterations"],
                        help="steps of the offline run; 0: none")
    parser.add_argument("--csv", action="store_true", help="append the rows to benchmarks/results.csv")
    args, rest = parser.parse_known_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    shutil.rmtree(args.work / "run", ignore_errors=True)
    flags = ["-m", str(args.work / "run"), "--video", str(args.film), "--seconds", str(max(args.at)), *rest]
    settings = parse_flags(LiveSettings, "benchmarks.live", flags)
    check(settings)
    run_folder(settings).mkdir(parents=True)
    seed_everything(settings.seed)
    measure(settings, resolve_device(settings.device), args, Results(RESULTS if args.csv else None))


if __name__ == "__main__":
    main()
