#!/usr/bin/env python3
"""Turn a video of one person into a data set: python track.py VIDEO -o DATA; or into an avatar: python track.py VIDEO
--train OUT  (--help lists every setting)."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING

from arguments import DataSettings, TrainSettings, parse_flags
from arguments.cli import flags_of
from arguments.track_settings import LAYOUTS, TrackSettings
from scene.run_folder import refuse_trained_run
from tracking.job import is_complete
from tracking.look import look_at
from tracking.run import Means, Outcome
from tracking.workers import Workers

if TYPE_CHECKING:  # what imports torch is imported by `prepare` and by what follows it
    import torch

log = logging.getLogger("track")
SWITCH = 2e-4  # seconds; see `main`
WORKERS = 4  # processes, whose threads share the cores; within one of them Python's lock keeps more waiting
GPU_FILES = ("/dev/nvidiactl", "/dev/dxg")  # of NVIDIA's driver, on Linux and under WSL


def report(outcome: Outcome, trains: bool) -> None:
    """Say what came of it and what to do next."""
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in outcome.seconds.items())
    log.info("\n%s: %d pictures, %d left out (%s)", outcome.folder, outcome.frames, outcome.dropped, seconds)
    log.info("Verdict: %s", outcome.verdict.word)
    for reason in outcome.verdict.reasons:
        log.info("  - %s", reason)
    several = (outcome.folder / "cameras").is_dir()
    preview = outcome.folder / ("cameras/*/preview.mp4" if several else "preview.mp4")
    log.info("Look at %s%s", preview, "" if trains else f", then: python train.py -s {outcome.folder} -m OUT")


OWN_LAYOUT = "metrical"  # metrical-tracker's layout is the one that DATA itself has
ALIASES = {"flame_params": "imavatar"}  # known by the name of its file
FOR_SEVERAL = ("vhap", "nersemble", OWN_LAYOUT)  # have room for several cameras


def write_others(folder: Path, layouts: tuple[str, ...]) -> None:
    """Write the data set that lies in `folder` into a folder of it for each layout, named after it."""
    from scene.data import choose_head, open_data
    from scene.writers import WRITERS

    for layout in layouts:
        if layout == OWN_LAYOUT:
            log.info("--write %s: DATA itself has that layout", layout)
            continue
        source = open_data(DataSettings(folder))  # complete: it is in the tracker's layout
        target = folder / layout
        target.mkdir()
        WRITERS[ALIASES.get(layout, layout)](target, source, choose_head("auto", source))


def check_layouts(layouts: tuple[str, ...], several: bool) -> None:
    """ValueError for a layout that is not known, or that has no room for several cameras."""
    known = (*LAYOUTS, *ALIASES, OWN_LAYOUT)
    for layout in layouts:
        if layout not in known:
            raise ValueError(f"--write {layout}: unknown; known are {', '.join(known)}")
        if several and layout not in FOR_SEVERAL:
            raise ValueError(f"--write {layout}: has room for one camera only")


TRACK_DECIDES = {"source_path": "the data set is --output", "model_path": "the folder is --train",
                 "device": "it is track.py's --device", "resume": "it is track.py's --resume",
                 "check_only": "use train.py for that"}


def training_of(settings: TrackSettings) -> TrainSettings | None:
    """The settings of the training after the tracking; None where there is none.

    ValueError for a flag that is not for it, or a folder that cannot be trained into; SystemExit for a flag that
    train.py does not know either.
    """
    if settings.train is None:
        return None
    try:
        words = shlex.split(settings.train_flags)
    except ValueError as error:
        raise ValueError(f'--train_flags "{settings.train_flags}": {error}') from error
    flags = flags_of(TrainSettings)
    names = {alias.lstrip("-"): name for name, flag in flags.items() for alias in (name, *flag.aliases)}
    for word in words:
        name = names.get(word.lstrip("-").split("=")[0].replace("-", "_"), "") if word.startswith("-") else ""
        if name in TRACK_DECIDES:
            raise ValueError(f"--train_flags: --{name} cannot be given: {TRACK_DECIDES[name]}")
    own = ["-s", str(settings.output), "-m", str(settings.train), "--device", settings.device,
           "--resume", str(settings.resume)]
    training = parse_flags(TrainSettings, "train.py", [*own, *words])
    if not settings.resume:
        refuse_trained_run(training.run.model_path)
    return training


def prepare(settings: TrackSettings) -> Means:
    """What the stages after the first need, and their imports: to be done while the face is looked for."""
    from flame import load_head
    from tracking import pipeline  # noqa: F401
    from utils.devices import resolve_device

    return Means(resolve_device(settings.device), load_head(settings.head))


def warm_up(device: torch.device, trains: bool) -> None:
    """What else takes its time at first, but is waited for later only: libraries of the GPU, the training's imports."""
    import torch

    if device.type == "cuda":
        torch.linalg.cholesky(torch.eye(2, device=device) @ torch.eye(2, device=device))
    if trains:
        training_program()


def training_program() -> ModuleType:
    """train.py, with what it imports only when it starts: those who only track do not wait for it."""
    import trimesh  # noqa: F401 (scene/sampling.py)

    import train
    return train


def workers_for(settings: TrackSettings) -> AbstractContextManager[Workers | None]:
    """Processes for the pictures, where a GPU leaves the cores idle; one for the preview, where training follows.

    Whether there is a GPU is guessed: torch, which knows, is not there yet. Wrong, it costs time, or processes that
    only wait.
    """
    gpu = settings.device != "cpu" and any(Path(file).exists() for file in GPU_FILES)
    if settings.camera or (not gpu and settings.train is None):
        return nullcontext()
    return Workers(WORKERS if gpu else 1)


def track(settings: TrackSettings, workers: Workers | None) -> Outcome:
    """The tracking, and a report of it."""
    finish, trains = partial(write_others, layouts=settings.write), settings.train is not None
    with ThreadPoolExecutor(1) as meanwhile:
        if settings.camera:
            from tracking.several import track_cameras
            from utils.devices import resolve_device

            device = resolve_device(settings.device)
            warm = meanwhile.submit(warm_up, device, trains)
            outcome = track_cameras(settings, device, finish=finish)
        else:
            means = meanwhile.submit(prepare, settings)
            warm = meanwhile.submit(lambda: warm_up(means.result().device, trains))
            look = look_at(settings, means)
            from tracking.pipeline import go_on

            outcome = go_on(look, finish, trains, workers if look.run.device.type == "cuda" else None)
        warm.result()
    report(outcome, trains)
    return outcome


def track_and_train(settings: TrackSettings, training: TrainSettings | None) -> None:
    """The whole command. Raises what tracking and training raise, for the user."""
    begin = time.perf_counter()
    if training is not None and settings.resume and is_complete(settings):
        log.info("%s is complete; the training goes on", settings.output)
        training_program().train(training)
    else:
        with workers_for(settings) as workers:
            outcome = track(settings, workers)
            if training is not None:
                train_beside(training, outcome.preview, workers)
    if training is not None:
        log.info("From the video to the avatar: %.0f s", time.perf_counter() - begin)


def train_beside(training: TrainSettings, preview: Callable[[], None] | None, workers: Workers | None) -> None:
    """Train while a process writes the preview, which is waited for even where training fails: it cleans up."""
    if preview is not None and workers is not None:
        workers.start([preview])
    try:
        training_program().train(training)
    finally:
        while workers is not None and not workers.done(1):
            pass


class Stopped(KeyboardInterrupt):
    """The system asked the program to end (SIGTERM)."""


def stop(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM like Ctrl-C: files are closed, threads end, and the user is told how to go on."""
    raise Stopped


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, stop)
    # While one thread reads pictures, others detect in them and one imports torch, which seldom lets go of Python's
    # lock: whoever comes back from native code would wait for it 5 ms each time.
    sys.setswitchinterval(SWITCH)
    try:
        settings = parse_flags(TrackSettings, "track.py")
        check_layouts(settings.write, bool(settings.camera))
        track_and_train(settings, training_of(settings))
    except KeyboardInterrupt as error:
        print("\ntrack.py: interrupted; continue with the same command and --resume", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(error, Stopped) else signal.SIGINT))
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        sys.exit(f"track.py: {error}")


if __name__ == "__main__":
    main()
