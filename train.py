#!/usr/bin/env python3
"""Train a Gaussian-blendshape head avatar: python train.py -s DATA -m OUT  (--help lists every setting)."""

from __future__ import annotations

import dataclasses
import io
import logging
import signal
import sys
import time
import traceback
import zlib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn

import torch

from arguments import TrainSettings, load_config, parse_flags, save_config
from arguments.cli import CONFIG_NAME, absolute
from scene.checkpoint import CheckpointError, newest_checkpoint
from scene.clip import save_clip
from scene.run_folder import list_checkpoints, refuse_trained_run
from scene.split import describe_split
from training.calibration import LEAST_FRAMES
from training.data_check import check_data
from training.log import SilentLog, open_log
from training.losses import Perceptual
from training.team import ALONE, PeerLost, Team, TeamError, Vote, join
from training.trainer import Trainer
from training.watch import Watch
from training.world import World, open_world
from utils.atomic import WriteError
from utils.devices import resolve_device
from utils.lpips import MetricUnavailable, lpips_loss
from utils.processes import local_rank, process_rank
from utils.seeding import seed_everything

log = logging.getLogger("train")
SAVE_SECONDS = 120.0  # between checkpoints, unless the user says otherwise
GO_ON, SAVE, STOP = range(3)  # what a process may wish after a step; the largest wish of any is done
LPIPS_WEIGHT = 0.1  # on a GPU, unless the user says otherwise
RANK_0_SPEAKS = 30.0  # seconds that others leave rank 0 to come to the same error and report it


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after the running step; a second one acts at once.

    patient: not so, because torchrun passes on what the terminal sends as well (it kills after 30 s).
    """

    def __init__(self, patient: bool = False) -> None:
        self.asked, self._patient = False, patient
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        if self._patient:
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class SaveClock:
    """Tells, once each time, when so many seconds have passed since it told last; never where there are none."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def rings(self) -> bool:
        """Whether it is time."""
        if self._seconds is None or time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


def settings_of_run(given: TrainSettings) -> TrainSettings:
    """The settings to train with: the flags, or with --resume the run's saved ones (only run flags may change)."""
    folder = given.run.model_path
    if given.run.resume and not list_checkpoints(folder / "checkpoints"):
        log.info("--resume: no checkpoint in %s yet, starting from the beginning", folder)
        return given
    if given.run.resume:
        saved = load_config(TrainSettings, folder)
        asked = absolute(given).decided_as(saved)
        groups = ("data", "model", "optimization", "refinement")
        if any(getattr(saved, group) != getattr(asked, group) for group in groups):
            log.info("--resume continues with the settings saved in %s", folder / CONFIG_NAME)
        return dataclasses.replace(saved, run=dataclasses.replace(given.run, seed=saved.run.seed))
    refuse_trained_run(folder)
    return given


def with_lpips(settings: TrainSettings, smallest: int, device: torch.device) -> tuple[TrainSettings, Perceptual | None]:
    """The settings with the weight of LPIPS decided, and its network; `smallest`: pixels of the shortest side.

    ValueError where a weight was asked for and the network cannot be had, or not for such small pictures.
    """
    optimization = settings.optimization
    weight, network = optimization.lpips_loss, None
    if weight is None:
        weight = LPIPS_WEIGHT if device.type == "cuda" else 0.0
    if weight:
        try:
            network = lpips_loss(optimization.lpips_network, optimization.lpips_weights, smallest, device)
        except MetricUnavailable as error:
            if optimization.lpips_loss is not None:
                raise ValueError(f"--lpips_loss: {error}") from error
            log.warning("Training goes without LPIPS, which makes pictures sharper: %s", error)
            weight = 0.0
    return dataclasses.replace(settings, optimization=dataclasses.replace(optimization, lpips_loss=weight)), network


def evaluation_iterations(settings: TrainSettings) -> set[int]:
    """When held-out frames are scored."""
    total = settings.optimization.iterations
    return set(settings.run.test_iterations) or {max(1, total * quarter // 4) for quarter in (1, 2, 3, 4)}


@torch.no_grad()
def evaluate_some(trainer: Trainer, run_log: SilentLog) -> None:
    """Score a few held-out frames, spread evenly."""
    dataset = trainer.world.dataset
    held_out = max(dataset.by_size(dataset.test_indices), key=len, default=dataset.test_indices)  # pictures of one size
    views = min(trainer.settings.run.test_views, len(held_out))
    if views == 0 or not trainer.exchange.team.leads:
        return
    frames = [int(held_out[i * len(held_out) // views]) for i in range(views)]
    trainer.calibrate()
    pictures = torch.cat([trainer.render_frames([frame]).image.clamp(0, 1) for frame in frames])
    targets = trainer.target(dataset.rgba_batch(frames).to(trainer.device))
    run_log.evaluation(trainer.iteration, frames, pictures, targets)


def checkpoint(trainer: Trainer, run_log: SilentLog, folder: Path, keep: int) -> None:
    """Save a checkpoint. One that cannot be written is reported and tried again later; only the last one is fatal."""
    last = trainer.iteration == trainer.settings.optimization.iterations
    try:
        run_log.flush()
        trainer.save(folder / "checkpoints", keep)
        if trainer.refinement is not None and trainer.exchange.team.leads:
            save_clip(trainer.clip(), folder)
    except (CheckpointError, WriteError) as error:
        if last:
            raise
        run_log.say(f"WARNING: {error}. Training goes on; the next checkpoint comes at the next interval.")


def open_checked(settings: TrainSettings, device: torch.device, leads: bool = True) -> World:
    """The world of the settings, after a look at its data (`leads`); says which frames train and which are held out."""
    run = settings.run
    world = open_world(settings.data, settings.model, run.seed, device)
    dataset = world.dataset
    log.info("%s", describe_split(dataset.train_indices, dataset.test_indices, dataset.recording))
    refinement = settings.refinement
    moments = len(set(dataset.recording.time[dataset.train_indices].tolist()))
    if refinement.refine_tracking and refinement.refine_calibrate and moments < LEAST_FRAMES:
        log.info("Held-out frames keep the tracker's pose and codes: correcting them takes %d training frames",
                 LEAST_FRAMES)
    if leads and (run.check_data or run.check_only):
        check_data(world, run.model_path, always_draw=run.check_only)
    return world


def prepare(given: TrainSettings, team: Team) -> Trainer:
    """The trainer of a run, new or resumed; rank 0 writes config.json and clip.safetensors."""
    with team.together():
        settings = settings_of_run(given)
        team.share(settings.optimization.batch_size)
        device = resolve_device(settings.run.device, local_rank() if team.size > 1 else None)
    run = settings.run
    team.require_equal("the settings (their checksum)", zlib.crc32(repr(settings).encode()))
    seed_everything(run.seed)
    with team.together():
        world = open_checked(settings, device, team.leads)
    smallest = min(min(size) for size in world.dataset.sizes)
    settings, perceptual = team.one_first(lambda: with_lpips(settings, smallest, device))
    team.require_equal("the weight of LPIPS", settings.optimization.lpips_loss)
    with team.together():
        trainer = Trainer(settings, world, device, perceptual, team=team)
        if run.resume and list_checkpoints(run.model_path / "checkpoints"):
            trainer.restore(newest_checkpoint(run.model_path))
            trainer.calibrate()  # for the clip that is written below
            log.info("Resuming after iteration %d", trainer.iteration)
    team.require_equal("the iteration to begin with", trainer.iteration)
    trainer.exchange.require_same(trainer.avatar)
    with team.together():
        if team.leads:
            save_config(trainer.settings, run.model_path)
            save_clip(trainer.clip(), run.model_path)
    return trainer


def train(given: TrainSettings, team: Team = ALONE) -> None:
    """Run or resume training; leaves config.json, training.csv, checkpoints/ and tensorboard/ in the output folder."""
    trainer = prepare(given, team)
    settings, run, total = trainer.settings, trainer.settings.run, trainer.settings.optimization.iterations
    evaluations = evaluation_iterations(settings)
    stop, vote = StopRequest(patient=team.size > 1), Vote(team)
    clock = SaveClock(SAVE_SECONDS if run.checkpoint_interval is None and team.leads else None)
    with open_log(run, trainer.iteration, total, team.leads) as run_log:
        while trainer.iteration < total:
            result = trainer.step()
            run_log.step(trainer, result)
            if trainer.iteration in evaluations:
                evaluate_some(trainer, run_log)
            # Once: a signal between two looks must not skip the checkpoint.
            wish = vote.cast(STOP if stop.asked else SAVE if clock.rings() else GO_ON)
            due = run.checkpoint_interval is not None and trainer.iteration % run.checkpoint_interval == 0
            if due or trainer.iteration == total or wish != GO_ON:
                checkpoint(trainer, run_log, run.model_path, run.keep_checkpoints)
            if wish == STOP:
                break
    trainer.close()
    if trainer.iteration < total:
        message = f"train.py: stopped after iteration {trainer.iteration}; continue with --resume"
        raise SystemExit(message if team.leads else 1)
    log.info("Done: %d Gaussians, %.0f s of training; %s", trainer.avatar.count, run_log.seconds, run.model_path)
    log.info("Next: python test.py -m %s", run.model_path)


def how_to_go_on(folder: Path) -> str:
    """What remains of a run whose processes did not all live."""
    found = list_checkpoints(folder / "checkpoints")
    if not found:
        return f"train.py: {folder} holds no checkpoint yet (--checkpoint_interval); start again"
    return (f"train.py: the newest checkpoint is {found[-1]}; continue from it with --resume, on as many processes "
            "as you like")


def leave_the_word_to_rank_0() -> NoReturn:
    """End because of an error that rank 0 reports: after it, since torchrun kills all others when one has failed."""
    time.sleep(RANK_0_SPEAKS)
    sys.exit(1)


def parse_quietly() -> TrainSettings:
    """The flags, in a process that is not rank 0: what is wrong with them, or their list, is shown once."""
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return parse_flags(TrainSettings, "train.py")
    except SystemExit as end:
        if not end.code:
            raise
        leave_the_word_to_rank_0()


def main() -> None:
    leads = process_rank() == 0
    logging.basicConfig(level=logging.INFO if leads else logging.ERROR, format="%(message)s")
    settings = parse_flags(TrainSettings, "train.py") if leads else parse_quietly()
    team, watch = ALONE, Watch(ALONE, str)
    try:
        if settings.run.check_only:
            if leads:
                open_checked(settings, resolve_device("cpu"))
                log.info("Nothing was trained (--check_only)")
            return
        team = join()
        watch = Watch(team, lambda: how_to_go_on(settings.run.model_path))
        train(settings, team)
    except PeerLost as error:
        watch.wait_for_the_end()
        sys.exit(f"train.py: {error}")
    except TeamError as error:
        if leads:
            sys.exit(f"train.py: {error}")
        leave_the_word_to_rank_0()
    except (ValueError, OSError, FloatingPointError, CheckpointError) as error:
        if team.size > 1:
            watch.fail(str(error))
        sys.exit(f"train.py: {error}")
    except Exception as error:
        if team.size > 1:
            traceback.print_exc()
            watch.fail(str(error))
        raise
    finally:
        watch.stop()


if __name__ == "__main__":
    main()
