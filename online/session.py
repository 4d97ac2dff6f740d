"""One sitting: the camera's process, the tracker's process, training in rounds, and the avatar that is shown."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from arguments import DataSettings, RunSettings, TrainSettings
from arguments.live_settings import LiveSettings
from online.first_colours import paint
from online.reflection import Reflection
from online.tracker import Grown, TrackerSettings, forget, track
from online.watcher import Ended, Glance, WatchSettings, watch
from reenactment.motion import HeadMotion
from tracking.detector import Detector
from tracking.footage import ByteImage
from training.growth import grown
from training.trainer import Trainer
from training.world import World, open_world
from utils.devices import resolve_device

if TYPE_CHECKING:
    from online.page import LivePage  # without a page viser is not needed

log = logging.getLogger("live")

GLANCES, RECORDED = 2, 48  # what the watcher may be ahead of others; it drops what goes beyond
TOLD = 0.3  # seconds between what the panel says
ROUND = 6.0  # seconds between rounds at least, while pictures come: each costs a new trainer
RENEWED = 1.5  # seconds between copies of the avatar for the page
PATIENCE = 10.0  # seconds without a face after which it is said on the terminal, too
SHOWN = 300  # pictures over which delays are averaged


class SessionError(RuntimeError):
    """The camera or the tracker gave up; the message says why."""


@dataclass
class Events:
    """What happened when, seconds since the first picture arrived (NaN: not yet), and what it took.

    began: time.perf_counter of the first picture. delays: from a picture's arrival to the drawn avatar. waits: from
    arrival until a picture was looked at. looked, dropped: pictures of the camera, and those whose news found no room;
    faceless, crowded: those told that show no face, and more than one. rounds: when more pictures were taken in, and
    how many there were then.
    """

    began: float = float("nan")
    first_avatar: float = float("nan")
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=SHOWN))
    waits: list[float] = field(default_factory=list)
    looked: int = 0
    dropped: int = 0
    faceless: int = 0
    crowded: int = 0
    rounds: list[tuple[float, int]] = field(default_factory=list)

    def since(self) -> float:
        return perf_counter() - self.began

    def complaint(self) -> str:
        """What was wrong with the pictures, to be put after an error; empty when nothing was."""
        found = [f"{count} of {len(self.waits)} showed {what}"
                 for count, what in ((self.faceless, "no face"), (self.crowded, "more than one face")) if count]
        return "".join(f"; {words}" for words in found)

    def sentence(self) -> str:
        """In words."""
        delay = f"{1000 * float(np.median(self.delays)):.0f} ms" if self.delays else "not measured"
        wait = f"{1000 * max(self.waits):.0f} ms" if self.waits else "not measured"
        return (f"{self.looked} pictures; first avatar after {self.first_avatar:.1f} s; from picture to drawn avatar "
                f"{delay} (median); a picture waited at most {wait} to be looked at; {len(self.rounds)} rounds")


def train_settings(settings: LiveSettings) -> TrainSettings:
    """The run's settings, as train.py would have them."""
    data = DataSettings(settings.model_path / "data", split="tail", test_frames=settings.test_frames, cache="ram")
    run = RunSettings(settings.model_path, settings.seed, settings.device)
    return TrainSettings(data, run, settings.model, settings.optimization, settings.refinement)


class Session:
    """Runs until `stop`, the end of a film or --seconds; `trainer` is then what was learnt."""

    def __init__(self, settings: LiveSettings, device: torch.device, page: LivePage | None = None,
                 detector: Callable[[], Detector] | None = None,
                 on_step: Callable[[Trainer, Events], None] | None = None) -> None:
        """detector: instead of MediaPipe's; makes one in another process. on_step: called after every step."""
        self.settings, self.device, self.page, self._on_step = settings, device, page, on_step
        self.events = Events()
        self.trainer: Trainer | None = None
        self._train = train_settings(settings)
        self._context = multiprocessing.get_context("spawn")
        self._stop, self._lock = self._context.Event(), self._context.Lock()
        self._glances: Any = self._context.Queue(GLANCES)
        self._recorded: Any = self._context.Queue(RECORDED)
        self._grown: Any = self._context.Queue()
        self._detector = detector
        self._asked = False  # to stop
        self._told = self._began = 0.0  # when the panel was last told something, and the last round began
        self._processes: list[Any] = []
        self._motion: dict[int, HeadMotion] = {}
        self._newest: Glance | None = None
        self._drawn = (0, 0.0)  # number of the face and time of the copy of what was drawn last
        self._reflection: Reflection | None = None
        self._copied = 0.0
        self._new = threading.Condition()
        self._round: tuple[World, Grown] | None = None
        self._tracked: Ended | None = None
        self._failure: str | None = None

    def stop(self) -> None:
        """End the recording; training goes on for --last_seconds. Signal handlers may call it: it waits for nothing."""
        self._asked = True

    def run(self) -> Trainer:
        """The whole sitting. SessionError when there is no camera, no face, or too little of one."""
        processes = self._processes = self._made_processes()
        threads = [threading.Thread(target=target, daemon=True) for target in self._helpers()]
        for runner in (*processes, *threads):
            runner.start()
        try:
            self._learn()
        finally:
            self._stop.set()
            for inbox in (self._glances, self._recorded, self._grown):
                forget(inbox)
            for process in processes:
                process.join(timeout=5)
                if process.is_alive():
                    process.terminate()
        assert self.trainer is not None
        return self.trainer

    def _made_processes(self) -> list[Any]:
        s = self.settings
        source, flag = (s.webcam, "--webcam") if s.video is None else (str(s.video), "--video")
        on_gpu = self.device.type == "cuda"
        watching = WatchSettings(source, flag, s.rate or (8.0 if on_gpu else 3.0), s.most_frames, s.face_model,
                                 s.landmarks, self._detector)
        tracking = TrackerSettings(s.model_path / "data", s.size or (512 if on_gpu else 256), s.first_frames,
                                   s.matting_model)
        return [
            self._context.Process(target=watch, args=(watching, self._glances, self._recorded, self._stop)),
            self._context.Process(target=track, args=(tracking, str(self.device), self._recorded, self._grown,
                                                      self._lock)),
        ]

    def _helpers(self) -> list[Callable[[], None]]:
        # On a GPU the loop draws between its steps: while it captures a step, no other thread may use the device.
        return [self._listen, self._open_worlds, *([] if self.device.type == "cuda" else [self._draw_on])]

    # Threads that take in what the processes say.

    def _listen(self) -> None:
        """Glances, as they come."""
        alone = perf_counter()
        while True:
            item = pickle.loads(self._glances.get())
            if isinstance(item, Ended):
                self.events.looked, self.events.dropped = item.pictures, item.dropped
                if item.error:
                    self._failure = item.error
                return
            if np.isnan(self.events.began):
                self.events.began = item.arrived
            self.events.waits.append(item.waited)
            self.events.faceless += item.faces == 0
            self.events.crowded += item.faces > 1
            if item.kept is not None and item.seen is not None:
                self._motion[item.kept] = item.seen.motion
            with self._new:
                self._newest = item
                self._new.notify_all()
            if self.page is not None:
                self.page.show(camera=item.preview)
            alone = self._told_alone(item, alone)
            if self.settings.seconds is not None and self.events.since() > self.settings.seconds:
                self.stop()

    def _told_alone(self, glance: Glance, since: float) -> float:
        """Say on the terminal that no face, or more than one, has been seen for long; when that was last so or said."""
        if glance.faces == 1:
            return perf_counter()
        if perf_counter() - since > PATIENCE:
            log.warning("%s", request_of(glance))
            return float("inf")
        return since

    def _open_worlds(self) -> None:
        """Open the data set whenever it has grown and the last one is in use."""
        while True:
            item = self._grown.get()
            if isinstance(item, Ended):
                self._failure = self._failure or item.error or None
                self._tracked = item
                return
            while self._round is not None or (self._began > perf_counter() - ROUND and not self._over):
                sleep(0.02)
                item = self._newer(item)
            with self._lock:
                # Not on a GPU, which no other thread may use while the loop captures a step.
                world = open_world(self._train.data, self._train.model, self.settings.seed, resolve_device("cpu"),
                                   progress=False)
            self._round = world, item

    def _newer(self, item: Grown) -> Grown:
        try:
            newer = self._grown.get_nowait()
        except queue.Empty:
            return item
        if isinstance(newer, Ended):
            self._grown.put(newer)
            return item
        return newer

    def _draw_on(self) -> None:
        while True:
            with self._new:
                self._new.wait_for(lambda: self._due is not None, timeout=1)
            started = perf_counter()
            self._draw()
            sleep(perf_counter() - started)  # training gets the processor for as long

    # The loop.

    def _learn(self) -> None:
        over: float | None = None
        while True:
            if self._asked and not self._stop.is_set():
                self._stop.set()
            self._tell()
            self._look_after_processes()
            if self._failure and self.trainer is None:
                raise SessionError(f"{self._failure}{self.events.complaint()}")
            if self._failure:
                log.warning("%s; what was learnt so far is kept", self._failure)
                return
            if self._round is not None:
                self._take_in(*self._round)
                self._round = None
            if self._tracked is not None and self._round is None:
                over = over or perf_counter() + self.settings.last_seconds
                if perf_counter() > over:
                    return
            self._step()

    def _look_after_processes(self) -> None:
        """Note that one has died without a word (killed, or out of memory)."""
        for name, process in zip(("camera", "tracker"), self._processes, strict=True):
            if process.exitcode and not self._failure:
                self._failure = f"the {name}'s process died (exit code {process.exitcode})"

    def _take_in(self, opened: World, data: Grown) -> None:
        world = opened.to(self.device) if self.device.type == "cuda" else opened
        if self.trainer is None:
            self.trainer = Trainer(self._train, world, self.device)
            paint(self.trainer.avatar, world)
        else:
            self.trainer = grown(self.trainer, world)
        self._began = perf_counter()
        self.events.rounds.append((self.events.since(), len(data.kept)))
        motion = [self._motion[number] for number in data.kept if number in self._motion]
        if motion:
            self._renew(Reflection(self.trainer, motion, self.settings.model_path.resolve().name), self.trainer)

    def _renew(self, reflection: Reflection, trainer: Trainer) -> None:
        """Have the avatar drawn as it is now."""
        reflection.renew(trainer)
        with self._new:
            self._reflection, self._copied = reflection, perf_counter()
            self._new.notify_all()

    def _step(self) -> None:
        trainer = self.trainer
        if trainer is None or trainer.iteration >= trainer.settings.optimization.iterations:
            sleep(0.005)
        else:
            trainer.step()
            if self._on_step is not None:
                self._on_step(trainer, self.events)
        if trainer is not None and self._reflection is not None and perf_counter() - self._copied > RENEWED:
            self._renew(self._reflection, trainer)
        if self.device.type == "cuda":
            self._draw()

    @property
    def _due(self) -> tuple[int, float] | None:
        """Number of the face and time of the copy of the avatar that are to be drawn, if they are not yet."""
        if self._newest is None or self._newest.seen is None or self._reflection is None:
            return None
        due = self._newest.number, self._copied
        return None if due == self._drawn else due

    def _draw(self) -> None:
        """The newest avatar for the newest face."""
        due, glance, reflection = self._due, self._newest, self._reflection
        if due is None or glance is None or glance.seen is None or reflection is None:
            return
        picture: ByteImage = reflection.draw(glance.seen)
        if due[0] != self._drawn[0]:
            self.events.delays.append(perf_counter() - glance.arrived)
        self._drawn = due
        if np.isnan(self.events.first_avatar):
            self.events.first_avatar = self.events.since()
            log.info("The avatar is there after %.0f s; it sharpens while you go on.", self.events.first_avatar)
        if self.page is not None:
            self.page.show(avatar=picture)

    def _tell(self) -> None:
        """Bring the page's panel up to date, from time to time."""
        glance = self._newest
        if self.page is None or glance is None or perf_counter() - self._told < TOLD:
            return
        self._told = perf_counter()
        ask = "The recording has ended; the last pictures are learnt." if self._over else request_of(glance)
        self.page.tell(self._status(), ask, glance.share, glance.table)

    @property
    def _over(self) -> bool:
        return self._asked or self.events.looked > 0

    def _status(self) -> str:
        trainer, kept = self.trainer, len(self._motion)
        if trainer is None:
            wanted = self.settings.first_frames
            return (f"**{min(kept, wanted)} of {wanted} pictures** for the beginning" if kept < wanted else
                    "**The head is fitted**; the avatar comes in some seconds")
        frames = self.events.rounds[-1][1]
        return (f"**Step {trainer.iteration:,}** of {trainer.settings.optimization.iterations:,}  \n{frames} of {kept} "
                f"pictures learnt from, {trainer.avatar.count:,} Gaussians")


def request_of(glance: Glance) -> str:
    """What the person in front of the camera should do."""
    if glance.faces == 0:
        return "No face is seen: look into the camera, in good light. Nothing is recorded meanwhile."
    if glance.faces > 1:
        return f"{glance.faces} faces are seen: nothing is recorded until there is one. The avatar follows the largest."
    if not glance.missing:
        return "All views and expressions are there. Go on talking, or stop."
    return "Now: **" + "**, or **".join(glance.missing) + "**"


def run_folder(settings: LiveSettings) -> Path:
    """The output folder, free. ValueError when a run or a data set lies there."""
    for name in ("checkpoints", "data", "config.json"):
        if (settings.model_path / name).exists():
            raise ValueError(f"--model_path {settings.model_path}: holds {name} of another run; choose another folder")
    return settings.model_path
