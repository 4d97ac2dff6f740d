#!/usr/bin/env python3
"""Drive a trained avatar with another face: python reenact.py OUT --driver OTHER -o video.mp4  (--help)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from arguments import parse_flags
from arguments.reenact_settings import ReenactSettings
from exporting.poses import frame_numbers
from flame import Head
from player import Player, open_player
from player.views import front_clip
from reenactment.broadcast import Broadcast
from reenactment.curves import is_unsigned
from reenactment.driver import Driver, driver_of_clip, open_driver, run_pictures
from reenactment.face import FaceReader
from reenactment.film import Painter, beside, labelled, write_film
from reenactment.motion import cameras_of, clip_motion, orbited, still, swaying
from reenactment.performance import Actor, Cures, head_motion, perform
from reenactment.receiver import check_stream, open_receiver
from reenactment.smoothing import check_window
from reenactment.sweep import expression_sweep
from reenactment.video_driver import driver_of_video
from reenactment.webcam import Camera, Delays, Faces, Follower, Mirror, faces_of, live
from scene.checkpoint import CheckpointError
from tracking.detector import MediaPipeDetector
from tracking.footage import Span
from tracking.video import open_footage
from utils.atomic import terminate_as_exit
from utils.devices import resolve_device
from utils.images import encode_image
from utils.video import VideoUnavailable, write_video
from viewer.server import check_port

log = logging.getLogger("reenact")

USUAL_FPS = 25.0
LIVE_QUALITY = 85  # JPEG


def check(settings: ReenactSettings) -> None:
    """ValueError for flags that contradict or make no sense."""
    drivers = {"driver": settings.driver, "video": settings.video, "webcam": settings.webcam,
               "udp": settings.stream.udp, "sweep": settings.sweep}
    given = [name for name, value in drivers.items() if value not in (None, False)]
    if len(given) > 1:
        raise ValueError(f"--{given[0]} and --{given[1]} both say what drives the avatar; give one of them")
    if settings.output is not None and settings.output.suffix.lower() != ".mp4":
        raise ValueError(f"--output: wanted the name of an .mp4 file, got {settings.output}")
    for name, low, high in (("fps", 1, 240), ("size", 16, 4096), ("orbit_seconds", 0.1, 3600),
                            ("sweep_seconds", 0.1, 60), ("orbit", 0, 180)):
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"--{name}: wanted {low} to {high}, got {value}")
    if settings.same_person and settings.driver is None:
        raise ValueError("--same_person: corrects a data set as track.py writes; name it with --driver. --video, "
                         "--webcam and --udp are read without a fit, and the avatar's own clip is corrected already")
    lively = is_live(settings)
    if settings.frames is not None and (settings.sweep or lively):
        raise ValueError("--frames: chooses frames of a driver; leave it out with --sweep, --webcam and --udp")
    if lively and (settings.side_by_side or settings.orbit):
        raise ValueError(f"--{given[0]}: shows the avatar alone, from its camera; leave out --side_by_side and --orbit")
    check_stream(settings.stream)
    check_window(settings.smooth)


def is_live(settings: ReenactSettings) -> bool:
    """Whether somebody drives live, instead of a recorded driver."""
    return settings.webcam is not None or settings.stream.udp is not None


def picture_size(player: Player, settings: ReenactSettings) -> tuple[int, int]:
    """Width and height of the avatar's pictures."""
    height = settings.size or player.clip.height
    return max(1, round(player.clip.width * height / player.clip.height)), height


def find_driver(player: Player, settings: ReenactSettings) -> Driver:
    """Whoever drives; the avatar's own clip where nobody is named."""
    if settings.video is not None:
        footage = open_footage(settings.video)  # a wrong name is an error before a model is looked for
        with MediaPipeDetector(settings.face_model) as detector:
            driver = driver_of_video(footage, detector, Span())
    elif settings.driver is not None:
        driver = open_driver(settings.driver, settings.driver_head, head_flip=settings.stream.head_flip,
                             avatar=player if settings.same_person else None)
    else:
        pictures = run_pictures(settings.model_path, player.clip, settings.source_path)
        driver = driver_of_clip(player.name, player.clip, player.head, pictures)
    for note in driver.notes:
        log.warning("%s", note)
    return driver


def cures_of(settings: ReenactSettings) -> Cures:
    return Cures(settings.center, settings.project, settings.smooth)


def film(player: Player, settings: ReenactSettings) -> Path:
    """Write the video of a driver or of the sweep, and return its path."""
    fps = settings.fps or USUAL_FPS
    width, height = picture_size(player, settings)
    painter = Painter(player, width, height, settings.background)
    driver, labels = None, None
    if settings.sweep:
        amplitude = settings.sweep_amplitude or (1.0 if is_unsigned(player.head) else 2.0)
        codes, labels = expression_sweep(player, max(3, round(settings.sweep_seconds * fps)), amplitude)
        motion = still(clip_motion(player.clip, player.head), len(codes))
    else:
        driver = find_driver(player, settings)
        codes = perform(player, driver, cures_of(settings))
        motion, note = head_motion(player, driver, settings.head_motion, cures_of(settings))
        if note:
            log.warning("%s", note)
        # Chosen last: the driver's habits are those of all its frames.
        chosen = frame_numbers(settings.frames or ":", len(driver))
        driver, index = driver.at(chosen), torch.tensor(chosen)
        codes, motion = codes.at(index), motion.at(index)
        fps = settings.fps or (driver.fps or USUAL_FPS) / chosen.step
    codes = swaying(codes, motion, player)
    if settings.orbit:
        motion = orbited(motion, settings.orbit, settings.orbit_seconds * fps)
    pictures: Iterator[NDArray[np.uint8]] = painter.paint_all(
        codes, cameras_of(motion, player.clip, player.head, width, height))
    if labels is not None:
        pictures = labelled(pictures, labels)
    if settings.side_by_side:
        pictures = with_driver(driver, pictures)
    path = settings.output or settings.model_path / "reenact" / f"{'sweep' if driver is None else driver.name}.mp4"
    write_film(path, pictures, len(codes), fps)
    return path


def with_driver(driver: Driver | None, pictures: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """The driver's pictures to the left. ValueError when it has none."""
    if driver is None or driver.pictures is None:
        who = "a sweep" if driver is None else driver.name
        raise ValueError(f"--side_by_side: {who} has no pictures to show; leave the flag out")
    return beside(driver.pictures, pictures)


def mirror(player: Player, settings: ReenactSettings) -> None:
    """Be driven by a camera or an app until Ctrl-C, on a page and, where --output says so, into a video."""
    check_port(settings.host, settings.port)
    size = picture_size(player, settings)
    delays = Delays()
    with ExitStack() as stack:
        faces, head = live_driver(settings, stack)
        follower = Follower(Actor(player, head, cures_of(settings)), settings.stream.calibrate,
                            settings.head_motion == "driver")
        acting = Mirror(follower, Painter(player, *size, settings.background, batch=1), size)
        page = Broadcast(settings.host, settings.port, player.name)
        stack.callback(page.close)
        log.info("Open http://localhost:%d in a browser; look neutral for %.0f s. Ctrl-C ends.", page.port,
                 settings.stream.calibrate)

        def show(picture: NDArray[np.uint8]) -> None:
            page.publish(encode_image(picture, ".jpg", LIVE_QUALITY))

        try:
            record(live(faces, acting, delays, show), settings.output, settings.fps or USUAL_FPS)
        except KeyboardInterrupt:
            log.info("")
        log.info("%s", delays.sentence())


def live_driver(settings: ReenactSettings, stack: ExitStack) -> tuple[Faces, Head]:
    """The faces of a camera or of an app on the network, until `stack` closes, and the head that they are of."""
    if settings.webcam is not None:
        camera = stack.enter_context(Camera(settings.webcam))
        reader = FaceReader(stack.enter_context(MediaPipeDetector(settings.face_model)))
        return faces_of(camera, reader), reader.head
    receiver, samples = open_receiver(settings.stream)
    stack.enter_context(receiver)
    stack.callback(lambda: log.info("%s", receiver.sentence()))
    return receiver.faces(samples), samples.head


def record(pictures: Iterator[tuple[float, NDArray[np.uint8]]], path: Path | None, fps: float) -> None:
    """Keep pictures that come when they come as a video of a steady rate; Ctrl-C ends it well."""
    if path is None:
        for _ in pictures:
            pass
        return
    began, written = None, 0
    with write_video(path, fps) as add:
        try:
            for arrived, picture in pictures:
                began = arrived if began is None else began
                for _ in range(int((arrived - began) * fps) + 1 - written):
                    add(picture)
                    written += 1
        except KeyboardInterrupt:
            log.info("")
    log.info("%s: %d frames", path, written)


def reenact(settings: ReenactSettings) -> None:
    """Do what the flags ask for."""
    check(settings)
    player = open_player(settings.model_path, resolve_device(settings.device), settings.iteration,
                         settings.source_path)
    player.clip = front_clip(player.clip)
    if is_live(settings):
        mirror(player, settings)
        return
    path = film(player, settings)
    log.info("%s: %.1f MB", path, path.stat().st_size / 1e6)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    terminate_as_exit()
    settings = parse_flags(ReenactSettings, "reenact.py")
    try:
        reenact(settings)
    except KeyboardInterrupt:
        sys.exit("\nreenact.py: interrupted; no video was written")
    except (ValueError, OSError, RuntimeError, CheckpointError, VideoUnavailable) as error:
        sys.exit(f"reenact.py: {error}")


if __name__ == "__main__":
    main()
