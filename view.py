#!/usr/bin/env python3
"""Look at a trained avatar in the browser: python view.py OUT  (--help lists every setting)."""

from __future__ import annotations

import logging
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch

from arguments import DataSettings, TrainSettings, load_config, parse_flags
from arguments.cli import CONFIG_NAME
from arguments.view_settings import ViewSettings
from player import open_player
from player.reference_model import load_reference_model, reference_iterations
from reenactment.performance import Actor, Cures
from reenactment.receiver import Receiver, check_stream, open_receiver
from reenactment.samples import SampleReader
from reenactment.webcam import Follower
from scene.checkpoint import CheckpointError
from scene.clip import Clip
from utils.devices import resolve_device
from viewer.pace import Pace
from viewer.page import Page
from viewer.picture import Painter
from viewer.server import PageServer, addresses
from viewer.state import Driven
from viewer.truth import GroundTruth
from viewer.visitors import read_origin
from viewer.watch import newest_iteration

log = logging.getLogger("view")

WATCH_INTERVAL = 2.0  # seconds between looks for a new checkpoint
SECONDS_A_PICTURE = {"cpu": 1 / 12, "cuda": 1 / 45}  # while something moves
LONGEST_SIDE = {"cpu": 1024, "cuda": 2560}


def open_newest(settings: ViewSettings, device: torch.device) -> tuple[Painter, int | None]:
    """The checkpoint to show and its iteration. With --watch a run without a checkpoint is waited for."""
    folder = settings.model_path
    if settings.watch and (folder / CONFIG_NAME).is_file() and newest_iteration(folder) is None:
        log.info("%s: waiting for the first checkpoint (train.py --checkpoint_interval)", folder)
        while newest_iteration(folder) is None:
            time.sleep(WATCH_INTERVAL)
    iteration = settings.iteration if settings.iteration >= 0 else newest_iteration(folder)
    player = open_player(folder, device, -1 if iteration is None else iteration, settings.source_path)
    return Painter(player), iteration


def subtitle(iteration: int | None, watch: bool) -> str:
    """What the page says after the avatar's name."""
    shown = "" if iteration is None else f"iteration {iteration:,}"
    return f"{shown} (following the run)" if watch else shown


def data_of(settings: ViewSettings, clip: Clip) -> DataSettings:
    """How the data set of the avatar is read. ValueError when neither the folder nor --source_path tells."""
    folder = settings.model_path
    if reference_iterations(folder):
        return load_reference_model(folder, settings.iteration, settings.source_path).data
    try:
        data = load_config(TrainSettings, folder).data
    except ValueError:  # missing, or of another version; the clip says enough
        if settings.source_path is None:
            raise
        return DataSettings(settings.source_path, resolution=clip.width, test_frames=0)
    return data if settings.source_path is None else replace(data, source_path=settings.source_path)


def find_truth(settings: ViewSettings, clip: Clip) -> tuple[GroundTruth | None, str]:
    """The data set's pictures, or None, with a sentence for the page either way."""
    try:
        return GroundTruth(data_of(settings, clip), clip), "Error: black 0 to yellow 0.25 and more; the clip's camera."
    except (ValueError, OSError) as error:
        return None, f"No ground truth: {error}. Flag: `--source_path`."


def follow(page: Page, settings: ViewSettings, device: torch.device, shown: int | None) -> None:
    """Show every new checkpoint of the run, forever."""
    while True:
        time.sleep(WATCH_INTERVAL)
        newest = newest_iteration(settings.model_path)
        if newest is None or newest == shown:
            continue
        try:
            page.replace_avatar(Painter(open_player(settings.model_path, device, newest)), subtitle(newest, True))
            shown = newest
        except (ValueError, OSError, CheckpointError) as error:  # deleted while it was read, or still being written
            log.warning("iteration %d not shown: %s", newest, error)


def drive(page: Page, receiver: Receiver, reader: SampleReader, follower: Follower) -> None:
    """Let an app on the network move the avatar, forever."""
    def show(driven: Driven) -> None:
        page.change(lambda state: replace(state, driven=driven))

    for arrived, _, seen in receiver.faces(reader):
        codes, motion = follower.act(seen, arrived)
        show(Driven(codes, follower.own.R[0].T @ motion.R[0]))


def open_page(settings: ViewSettings) -> Page:
    """Everything up to the loop: avatar, server, page, and the threads that serve it."""
    device = resolve_device(settings.device)
    painter, iteration = open_newest(settings, device)
    server = PageServer(settings.host, settings.port, painter.player.name, settings.allow_origin)
    side = settings.size or LONGEST_SIDE[device.type]
    pace = Pace(SECONDS_A_PICTURE[device.type], side)
    driven = settings.stream.udp is not None
    page = Page(painter, server, pace, settings.fps, subtitle(iteration, settings.watch), driven)
    if driven:
        receiver, reader = open_receiver(settings.stream)
        follower = Follower(Actor(painter.player, reader.head, Cures()), settings.stream.calibrate, moves=True)
        threading.Thread(target=drive, args=(page, receiver, reader, follower), daemon=True).start()
    threading.Thread(target=lambda: page.offer_truth(*find_truth(settings, painter.player.clip)), daemon=True).start()
    if settings.watch:
        threading.Thread(target=follow, args=(page, settings, device, iteration), daemon=True).start()
    return page


def check(settings: ViewSettings) -> None:
    """ValueError for settings that no page can be made of."""
    if not 0 < settings.fps <= 240:
        raise ValueError(f"--fps: wanted more than 0 and at most 240, got {settings.fps}")
    if settings.size != 0 and not 128 <= settings.size <= 4096:
        raise ValueError(f"--size: wanted 0 or 128 to 4096 pixels, got {settings.size}")
    if settings.watch and settings.iteration >= 0:
        raise ValueError("--watch and --iteration: following a run and showing one checkpoint exclude each other")
    check_stream(settings.stream)
    for origin in settings.allow_origin:
        read_origin(origin)
    if not Path(settings.model_path).is_dir():
        raise ValueError(f"{settings.model_path}: no such folder; wanted the output folder of a training run")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = parse_flags(ViewSettings, "view.py")
    try:
        check(settings)
        page = open_page(settings)
        log.info("Open %s in a browser; Ctrl-C ends.", " or ".join(addresses(settings.host, page.server.get_port())))
        page.run()
    except KeyboardInterrupt:
        log.info("\nview.py: ended")
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"view.py: {error}")


if __name__ == "__main__":
    main()
