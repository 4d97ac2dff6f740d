#!/usr/bin/env python3
"""Learn an avatar while its person sits before a camera: python live.py -m OUT  (--help lists every setting)."""

from __future__ import annotations

import logging
import signal
import sys

import torch

from arguments import parse_flags, save_config
from arguments.live_settings import LiveSettings
from online.session import Session, SessionError, run_folder, train_settings
from scene.checkpoint import CheckpointError
from scene.clip import save_clip
from training.trainer import Trainer
from utils.devices import resolve_device
from utils.seeding import seed_everything

log = logging.getLogger("live")


def check(settings: LiveSettings) -> None:
    """ValueError for settings that contradict or make no sense."""
    for name, low, high in (("first_frames", 12, 1000), ("most_frames", 12, 20_000),
                            ("test_frames", 0, 1000), ("last_seconds", 0, 3600), ("seconds", 1, 36_000)):
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"--{name}: wanted {low} to {high}, got {value}")
    if settings.rate and not 0.5 <= settings.rate <= 60:
        raise ValueError(f"--rate: wanted 0 or 0.5 to 60 pictures a second, got {settings.rate}")
    if settings.size and not 64 <= settings.size <= 2048:
        raise ValueError(f"--size: wanted 0 or 64 to 2048 pixels, got {settings.size}")
    if settings.first_frames <= settings.test_frames:
        raise ValueError(f"--first_frames: wanted more than --test_frames ({settings.test_frames}), which do not "
                         f"train, got {settings.first_frames}")
    if settings.video is not None and not settings.video.is_file():
        raise ValueError(f"--video {settings.video}: no such file")
    if settings.optimization.lpips_loss:
        raise ValueError("--lpips_loss: costs time that a sitting does not have; train.py -s OUT/data has it")
    if settings.landmarks is not None and settings.video is None:
        raise ValueError("--landmarks: are those of a film; give it with --video")


def keep(trainer: Trainer, settings: LiveSettings) -> None:
    """Leave a run like train.py's."""
    save_config(train_settings(settings), settings.model_path)
    trainer.save(settings.model_path / "checkpoints", 1)
    save_clip(trainer.clip(), settings.model_path)


def sit(settings: LiveSettings, device: torch.device) -> None:
    """Record and learn until the end, on a page."""
    from online.page import LivePage  # here: benchmarks.live shows no page and runs without viser
    from viewer.server import PageServer, addresses

    settings.model_path.mkdir(parents=True, exist_ok=True)
    server = PageServer(settings.host, settings.port, settings.model_path.resolve().name, settings.allow_origin)
    page = LivePage(server)
    session = Session(settings, device, page)
    page.stop = session.stop

    def end(number: int, frame: object) -> None:
        """The first Ctrl-C ends the recording, a second one the program."""
        signal.signal(number, signal.default_int_handler)
        session.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    log.info("Open %s in a browser; Ctrl-C or the page's button ends the recording.",
             " or ".join(addresses(settings.host, server.get_port())))
    try:
        trainer = session.run()
        keep(trainer, settings)
    finally:
        page.close()
        server.stop()
    log.info("%s", session.events.sentence())
    log.info("%s: %d steps on %d pictures, %d Gaussians", settings.model_path, trainer.iteration,
             len(trainer.world.dataset.train_indices), trainer.avatar.count)
    log.info("Next: python view.py %s, or python test.py -m %s, or more training: python train.py -s %s -m %s --resume",
             settings.model_path, settings.model_path, settings.model_path / "data", settings.model_path)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("scene").setLevel(logging.WARNING)  # what it says of an avatar would come again in every round
    settings = parse_flags(LiveSettings, "live.py")
    try:
        check(settings)
        run_folder(settings)
        device = resolve_device(settings.device)
        seed_everything(settings.seed)
        sit(settings, device)
    except KeyboardInterrupt:
        sys.exit("\nlive.py: interrupted; nothing was kept but the recorded pictures")
    except (ValueError, OSError, SessionError, CheckpointError) as error:
        sys.exit(f"live.py: {error}")


if __name__ == "__main__":
    main()
