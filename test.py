#!/usr/bin/env python3
"""Render and score a trained avatar: python test.py -m OUT  (--help lists every setting)."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from arguments import ModelSettings, Protocol, TestSettings, TrainSettings, load_config, parse_flags
from evaluation import EvaluationSettings, PosedMeshes, evaluate, merge_without_blendshapes
from player.reference_model import load_reference_model, reference_iterations, reference_rig
from scene.avatar import Avatar
from scene.checkpoint import CheckpointError, newest_checkpoint
from scene.inspection import empty_targets
from training.fitting import WEIGHTS, fit_tracking, lpips_of_fits
from training.losses import Perceptual
from training.refinement import corrected
from training.trainer import check_fits
from training.world import World, open_world, render_on_black
from utils.atomic import terminate_as_exit, write_json
from utils.devices import resolve_device
from utils.metrics import DEFINITIONS
from utils.report import write_report
from utils.score_files import read_json

log = logging.getLogger("test")


def frames_of(world: World, split: str) -> list[int]:
    """Frame indices of a split; ValueError when it is empty."""
    dataset = world.dataset
    if split == "all":
        return list(range(dataset.frame_count))
    frames: list[int] = (dataset.test_indices if split == "test" else dataset.train_indices).tolist()
    if not frames:
        raise ValueError(f"--split {split}: the run has no such frames; choose another split")
    return frames


def groups_of(world: World, frames: list[int]) -> dict[str, dict[str, list[int]]]:
    """What is scored apart where there are several cameras: what is new in a frame, and each camera."""
    recording = world.dataset.recording
    found = {"parts": recording.parts(world.dataset.train_indices, frames), "cameras": recording.by_camera(frames)}
    return {kind: groups for kind, groups in found.items() if groups}


def head_meshes(world: World) -> PosedMeshes:
    """The posed head mesh of every frame, with the regions that are scored on their own."""
    head = world.head
    regions = {name: ids.numpy() for name, ids in head.regions.items() if name in ("face", "eyes", "mouth")}
    return PosedMeshes(head.faces.numpy(), world.mesh_in_data, regions)


def print_definitions() -> None:
    """What the numbers are."""
    for name, text in DEFINITIONS.items():
        print(f"  {name}: {text}")


def print_scores(block: dict, title: str) -> None:
    """The headline numbers of a block of metrics.json."""
    for area, scores in (("whole frame", block), ("head mask", block["head"])):
        values = ", ".join(f"{name} {scores[name]:.4f}" if scores[name] is not None else f"{name} not computed"
                           for name in ("psnr", "ssim", "lpips_alex", "lpips_vgg"))
        print(f"{title}, {area}, {block['frames']} frames: {values}")
    for kind in ("parts", "cameras"):
        for name, part in block.get(kind, {}).items():
            what = f"camera {name}" if kind == "cameras" else name.replace("_", " ")
            print(f"{title}, {what}, {part['frames']} frames: psnr {part['psnr']:.4f}, ssim {part['ssim']:.4f}")
    for name in ("lpips_alex", "lpips_vgg"):
        if block[name] is None:
            print(f"{name}: {block[f'{name}_reason']}")


def note(folder: Path, split: str, **facts: object) -> None:
    """Add facts to a split's block of metrics.json."""
    metrics = read_json(folder / "metrics.json")
    metrics[split] |= facts
    write_json(folder / "metrics.json", metrics)


@dataclass(frozen=True)
class OpenRun:
    """The data set as its tracker left it, the avatar, its SH degree, and what corrects the tracking, if anything does.

    Of a run of train.py or a model of the reference.
    """

    tracked: World
    avatar: Avatar
    sh_degree: int
    correct: Callable[[World], World] | None

    def world(self, protocol: Protocol, frames: list[int], settings: TestSettings,
              perceptual: Perceptual | None) -> World:
        """The data set with pose and codes of `frames` as the protocol has them. perceptual: see `fit_tracking`."""
        predicted = self.tracked if self.correct is None or protocol == "as_tracked" else self.correct(self.tracked)
        if protocol != "seen":
            return predicted
        return fit_tracking(predicted, self.avatar, self.sh_degree, frames, settings.seen_steps, settings.batch_size,
                            perceptual=perceptual)


def open_run(settings: TestSettings, device: torch.device) -> OpenRun:
    """Read what is to be tested."""
    correct = None
    if reference_iterations(settings.model_path):
        model = load_reference_model(settings.model_path, settings.iteration, settings.source_path)
        data = dataclasses.replace(model.data, cache="auto")
        world = open_world(data, ModelSettings(num_expressions=0, num_teeth_gaussians=0), 0, device)
        world = dataclasses.replace(world, rig=reference_rig(world.rig, model))
        avatar, degree, iteration = model.avatar.to(device), model.sh_degree, model.iteration
    else:
        run = load_config(TrainSettings, settings.model_path)
        data = run.data
        if settings.source_path is not None:
            data = dataclasses.replace(data, source_path=settings.source_path)
        corrects = run.refinement.refine_tracking and settings.protocols != ("as_tracked",)
        checkpoint = newest_checkpoint(settings.model_path, settings.iteration, with_training=corrects)
        world = open_world(data, run.model, run.run.seed, device).swayed(checkpoint.avatar.sway)
        check_fits(checkpoint, world, f"checkpoint of iteration {checkpoint.iteration}")
        if corrects:
            correct = partial(corrected, checkpoint=checkpoint, settings=run.refinement)
        avatar, degree = checkpoint.avatar.to(device), int(checkpoint.state["sh_degree"])
        iteration = checkpoint.iteration
    log.info("%s: iteration %d, %d Gaussians", settings.model_path, iteration, avatar.count)
    return OpenRun(world, avatar, degree, correct)


def check(settings: TestSettings) -> None:
    """ValueError for flags that make no sense."""
    if settings.seen_steps < 1:
        raise ValueError(f"--seen_steps: wanted 1 or more, got {settings.seen_steps}")
    if not settings.protocols or len(set(settings.protocols)) < len(settings.protocols):
        raise ValueError(f"--protocols: wanted one or more of {', '.join(get_args(Protocol))}, each once, got "
                         f"{' '.join(settings.protocols) or 'none'}")


def test(settings: TestSettings) -> None:
    """Score one split of a run and leave metrics.json, pictures, video and report.html in its folder."""
    check(settings)
    run = open_run(settings, resolve_device(settings.device))
    options = EvaluationSettings(batch=settings.batch_size, lpips=settings.lpips, lpips_folder=settings.lpips_weights,
                                 lpips_every=settings.lpips_every, background=settings.background,
                                 pictures=settings.pictures, fps=settings.fps, video=settings.video)
    frames = frames_of(run.tracked, settings.split)
    black = empty_targets(run.tracked.dataset, frames)
    if black is not None:
        raise ValueError(black)
    perceptual = lpips_of_fits(settings.lpips_weights, run.tracked) if "seen" in settings.protocols else None
    fit = {"seen_steps": settings.seen_steps, "seen_lpips": 0.0 if perceptual is None else WEIGHTS.lpips_loss}
    for protocol in settings.protocols:
        block = settings.split if protocol == settings.protocols[0] else f"{settings.split}_{protocol}"
        world = run.world(protocol, frames, settings, perceptual)
        metrics = evaluate(partial(render_on_black, world, run.avatar, run.sh_degree), world.dataset, frames,
                           settings.model_path, options, head_meshes(world), block, groups_of(world, frames))
        # Where nothing was corrected, the prediction is what the tracker says.
        note(settings.model_path, block, tracking="as_tracked" if world is run.tracked else protocol,
             **fit if protocol == "seen" else {})
        if protocol == settings.protocols[0]:
            print_definitions()
        print_scores(metrics[block], f"{settings.split}, {protocol}" if len(settings.protocols) > 1 else settings.split)
    if settings.without_blendshapes is not None:
        merge_without_blendshapes(settings.model_path / "metrics.json", settings.without_blendshapes / "metrics.json")
    if settings.report:
        log.info("Report: %s", write_report(settings.model_path, settings.split))


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    terminate_as_exit()
    try:
        test(parse_flags(TestSettings, "test.py"))
    except (ValueError, OSError, CheckpointError) as error:
        sys.exit(f"test.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\ntest.py: stopped")


if __name__ == "__main__":
    main()
