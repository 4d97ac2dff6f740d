"""From a few settings to a data set folder: motion, frames in parallel, all or nothing on the disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from tqdm import tqdm

from data.demo import layout
from data.demo.motion import Motion, make_motion, seen_from
from data.demo.render import render
from data.demo.subject import Codes, Subject, make_subject, motion_codes, posed_vertices
from flame import Head, load_head

VERSION = 2  # of what is drawn; a folder of another version is generated anew
MOST_CAMERAS = 36
MARK = "truth.json"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
DESCRIPTION = (
    "A synthetic subject: an invented person on the open head, drawn by `python -m data.demo`. No footage of anybody. "
    "The codes in checkpoint/ are exact, the images hold detail that the head's mesh cannot: hair, pores, teeth, and "
    "wrinkles and flushes that come and go with the expression."
)


@dataclass(frozen=True)
class Settings:
    """What decides every byte of the data set.

    frames: length of the clip (about 25 a second). size: image side in pixels ("hr" writes twice that). seed: person
    and motion. mode: "insta", "nerfbs" or "hr", the three tracker layouts. cameras: how many stand evenly in a ring
    around the head, the first in front of it; more than one are written as the layout "cameras".

    Raises:
        ValueError: no frames, a size below 16 pixels, an unknown mode, no camera, or several in another mode than
            "insta".
    """

    frames: int = 300
    size: int = 256
    seed: int = 0
    mode: str = "insta"
    cameras: int = 1

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames: 1 or more expected, got {self.frames}")
        if self.size < 16:
            raise ValueError(f"size: 16 pixels or more expected, got {self.size}")
        if self.mode not in layout.MODES:
            raise ValueError(f"mode {self.mode!r} is unknown; known are {', '.join(layout.MODES)}")
        if not 1 <= self.cameras <= MOST_CAMERAS or (self.cameras > 1 and self.mode != "insta"):
            raise ValueError(f"cameras: 1 to {MOST_CAMERAS} expected, more than one with mode insta only, got "
                             f"{self.cameras} with mode {self.mode}")

    @property
    def azimuths(self) -> dict[str, float]:
        """Where the cameras stand: degrees to the subject's left of the front, by the name of each."""
        return {f"{360 * i // self.cameras:03d}": 360 * i / self.cameras for i in range(self.cameras)}


def generate(out: Path, settings: Settings, workers: int | None = None, progress: bool = True) -> bool:
    """Write the demo data set to folder `out`; returns False when it is already there, drawn with the same settings.

    Frames are drawn by `workers` processes (None: one per core); the result does not depend on their number. The folder
    appears complete or not at all: everything is written beside it first, then renamed.

    Raises:
        FileExistsError: `out` holds something that this generator did not write; it is left alone.
    """
    out = Path(out)
    if _is_there(out, settings):
        return False
    with _replacing_folder(out) as folder:
        head, subject, motion, codes = plan(settings)
        layout.write_still(folder, head, codes, settings.mode, settings.size, settings.seed, camera_folders(settings))
        job = _Job(subject, motion, codes, settings, folder)
        _draw_all(job, workers or os.cpu_count() or 1, progress)
        truth = {"generator": "data.demo", "version": VERSION, "about": DESCRIPTION, "settings": asdict(settings)}
        (folder / MARK).write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    return True


def camera_folders(settings: Settings) -> list[str]:
    """Where below the data set each camera's files lie, in the order of `Settings.azimuths`."""
    return [""] if settings.cameras == 1 else [f"{layout.CAMERAS}/{name}" for name in settings.azimuths]


@dataclass(frozen=True, eq=False)
class _Job:
    """What a worker process needs."""

    subject: Subject
    motion: Motion
    codes: Codes
    settings: Settings
    folder: Path


def plan(settings: Settings) -> tuple[Head, Subject, Motion, Codes]:
    head = load_head("open")
    subject = make_subject(settings.seed)
    motion = make_motion(settings.frames, head.expression_names, np.random.default_rng((settings.seed, 1)))
    return head, subject, motion, motion_codes(head, torch.from_numpy(subject.shape), motion)


def _draw_all(job: _Job, workers: int, progress: bool) -> None:
    count = job.settings.frames * job.settings.cameras
    bar = tqdm(total=count, desc="Drawing the demo subject", unit="frame", disable=not progress)
    with bar:
        if min(workers, count) == 1:
            artist = _Artist(job)
            for index in range(count):
                artist.draw(index)
                bar.update()
            return
        # Spawned, not forked: torch and OpenCV run threads, which do not survive a fork.
        context = multiprocessing.get_context("spawn")
        # The processes share the cores already; threads within each would only queue. BLAS asks when it is imported.
        with (mock.patch.dict(os.environ, dict.fromkeys(THREAD_VARIABLES, "1")),
              ProcessPoolExecutor(min(workers, count), context, _start_worker, (job,)) as pool):
            futures = [pool.submit(_draw_in_worker, index) for index in range(count)]
            try:
                for future in as_completed(futures):
                    future.result()
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


class _Artist:
    """Draws and writes single frames of a job."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.head = load_head("open")
        azimuths = job.settings.azimuths.values()
        self.views = [(job.folder / folder, seen_from(job.motion, np.radians(azimuth)) if azimuth else job.motion)
                      for folder, azimuth in zip(camera_folders(job.settings), azimuths, strict=True)]

    def draw(self, picture: int) -> None:
        """Draw and write one of the pictures, which are numbered camera after camera."""
        job = self.job
        camera, index = divmod(picture, job.settings.frames)
        folder, motion = self.views[camera]
        codes = Codes(job.codes.shape, *(
            getattr(job.codes, name)[index:index + 1] for name in ("expression", "jaw", "eyes", "eyelids")
        ))
        settings = job.settings
        rgba = render(
            job.subject, posed_vertices(self.head, codes)[0], motion.expression[index], motion.R[index],
            motion.t[index], motion.turn[index], settings.size * layout.image_scale(settings.mode),
        )
        layout.write_images(folder, index, rgba, settings.mode)
        layout.write_record(folder, index, job.codes, motion, settings.size)


_worker: list[_Artist] = []  # the one artist of a worker process, set when it starts


def _start_worker(job: _Job) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it answers Ctrl-C
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _worker[:] = [_Artist(job)]


def _draw_in_worker(index: int) -> None:
    _worker[0].draw(index)


def _is_there(out: Path, settings: Settings) -> bool:
    """True when `out` holds this very data set, False when it may be written; raises FileExistsError otherwise."""
    if not out.exists():
        return False
    if out.is_dir() and not any(out.iterdir()):
        return False
    truth = _read_mark(out / MARK)
    if truth.get("generator") != "data.demo":
        raise FileExistsError(f"{out}: exists and is not a demo data set; give another --out, or remove it yourself")
    drawn = truth.get("settings")
    known = {"cameras": 1, **drawn} if isinstance(drawn, dict) else {}  # written before there were several
    return bool(truth.get("version") == VERSION and known == asdict(settings))


def _read_mark(path: Path) -> dict[str, Any]:
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return truth if isinstance(truth, dict) else {}


@contextmanager
def _replacing_folder(out: Path) -> Iterator[Path]:
    """Yield a fresh folder beside `out`; when the block ends well, it takes the place of `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{secrets.token_hex(6)}.tmp")
    fresh.mkdir()
    try:
        yield fresh
        if out.exists():
            old = out.with_name(fresh.name + ".old")
            os.replace(out, old)
            os.replace(fresh, out)
            shutil.rmtree(old)
        else:
            os.replace(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
