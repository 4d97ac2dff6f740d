#!/usr/bin/env python3
"""Train a Gaussian-blendshape head avatar: python train.py -s DATA -m OUT  (--help lists every setting)."""

from __future__ import annotations

import dataclasses
import logging
import signal
import sys
from pathlib import Path

import torch

from arguments import TrainSettings, load_config, parse_flags, save_config
from arguments.cli import CONFIG_NAME, absolute
from scene.checkpoint import CheckpointError, list_checkpoints, newest_checkpoint
from scene.clip import save_clip
from scene.split import describe_split
from training.calibration import LEAST_FRAMES
from training.data_check import check_data
from training.log import TrainingLog
from training.losses import Perceptual
from training.trainer import Trainer
from training.world import World, open_world
from utils.atomic import WriteError
from utils.devices import resolve_device
from utils.lpips import MetricUnavailable, load_lpips
from utils.seeding import seed_everything

log = logging.getLogger("train")


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after the running step; a second one acts at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def settings_of_run(given: TrainSettings) -> TrainSettings:
    """The settings to train with: the flags, or with --resume the run's saved ones (only run flags may change)."""
    folder = given.run.model_path
    if given.run.resume and not list_checkpoints(folder / "checkpoints"):
        log.info("--resume: no checkpoint in %s yet, starting from the beginning", folder)
        return given
    if given.run.resume:
        saved = load_config(TrainSettings, folder)
        groups = ("data", "model", "optimization", "refinement")
        if any(getattr(saved, group) != getattr(absolute(given), group) for group in groups):
            log.info("--resume continues with the settings saved in %s", folder / CONFIG_NAME)
        return dataclasses.replace(saved, run=dataclasses.replace(given.run, seed=saved.run.seed))
    if list_checkpoints(folder / "checkpoints"):
        raise ValueError(f"{folder}: holds a trained run; continue it with --resume or choose another --model_path")
    return given


def perceptual_loss(settings: TrainSettings, device: torch.device) -> Perceptual | None:
    """LPIPS (VGG) when it has a weight; loaded before training so that a missing file is known at once."""
    if settings.optimization.lpips_loss == 0:
        return None
    try:
        return load_lpips("vgg", settings.optimization.lpips_weights).to(device)
    except MetricUnavailable as error:
        raise ValueError(f"--lpips_loss: {error}") from error


def evaluation_iterations(settings: TrainSettings) -> set[int]:
    """When held-out frames are scored."""
    total = settings.optimization.iterations
    return set(settings.run.test_iterations) or {max(1, total * quarter // 4) for quarter in (1, 2, 3, 4)}


@torch.no_grad()
def evaluate_some(trainer: Trainer, run_log: TrainingLog) -> None:
    """Score a few held-out frames, spread evenly."""
    dataset = trainer.world.dataset
    held_out = max(dataset.by_size(dataset.test_indices), key=len, default=dataset.test_indices)  # pictures of one size
    views = min(trainer.settings.run.test_views, len(held_out))
    if views == 0:
        return
    frames = [int(held_out[i * len(held_out) // views]) for i in range(views)]
    trainer.calibrate()
    pictures = torch.cat([trainer.render_frames([frame]).image.clamp(0, 1) for frame in frames])
    targets = trainer.target(dataset.rgba_batch(frames).to(trainer.device))
    run_log.evaluation(trainer.iteration, frames, pictures, targets)


def checkpoint(trainer: Trainer, run_log: TrainingLog, folder: Path, keep: int) -> None:
    """Save a checkpoint. One that cannot be written is reported and tried again later; only the last one is fatal."""
    last = trainer.iteration == trainer.settings.optimization.iterations
    try:
        run_log.flush()
        trainer.save(folder / "checkpoints", keep)
        if trainer.refinement is not None:
            save_clip(trainer.clip(), folder)
    except (CheckpointError, WriteError) as error:
        if last:
            raise
        run_log.say(f"WARNING: {error}. Training goes on; the next checkpoint comes at the next interval.")


def open_checked(settings: TrainSettings, device: torch.device) -> World:
    """The world of the settings, after a look at its data; says which frames train and which are held out."""
    run = settings.run
    world = open_world(settings.data, settings.model, run.seed, device)
    dataset = world.dataset
    log.info("%s", describe_split(dataset.train_indices, dataset.test_indices, dataset.recording))
    refinement = settings.refinement
    moments = len(set(dataset.recording.time[dataset.train_indices].tolist()))
    if refinement.refine_tracking and refinement.refine_calibrate and moments < LEAST_FRAMES:
        log.info("Held-out frames keep the tracker's pose and codes: correcting them takes %d training frames",
                 LEAST_FRAMES)
    if run.check_data or run.check_only:
        check_data(world, run.model_path, always_draw=run.check_only)
    return world


def train(settings: TrainSettings) -> None:
    """Run or resume training; leaves config.json, training.csv, checkpoints/ and tensorboard/ in the output folder."""
    run, total = settings.run, settings.optimization.iterations
    device = resolve_device(run.device)
    seed_everything(run.seed)
    perceptual = perceptual_loss(settings, device)
    trainer = Trainer(settings, open_checked(settings, device), device, perceptual)
    if run.resume and list_checkpoints(run.model_path / "checkpoints"):
        trainer.restore(newest_checkpoint(run.model_path))
        log.info("Resuming after iteration %d", trainer.iteration)
    save_config(settings, run.model_path)
    save_clip(trainer.clip(), run.model_path)
    evaluations = evaluation_iterations(settings)
    stop = StopRequest()
    with TrainingLog(run.model_path, trainer.iteration, total, run.log_interval, run.tensorboard) as run_log:
        while trainer.iteration < total:
            result = trainer.step()
            run_log.step(trainer, result)
            if trainer.iteration in evaluations:
                evaluate_some(trainer, run_log)
            stopping = stop.asked  # read once: a signal between the two uses must not skip the checkpoint
            if trainer.iteration % run.checkpoint_interval == 0 or trainer.iteration == total or stopping:
                checkpoint(trainer, run_log, run.model_path, run.keep_checkpoints)
            if stopping:
                break
    if trainer.iteration < total:
        raise SystemExit(f"train.py: stopped after iteration {trainer.iteration}; continue with --resume")
    log.info("Done: %d Gaussians, %.0f s of training; %s", trainer.avatar.count, run_log.seconds, run.model_path)
    log.info("Next: python test.py -m %s", run.model_path)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = parse_flags(TrainSettings, "train.py")
        if settings.run.check_only:
            open_checked(settings, resolve_device("cpu"))
            log.info("Nothing was trained (--check_only)")
        else:
            train(settings_of_run(settings))
    except (ValueError, OSError, FloatingPointError, CheckpointError) as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    main()
