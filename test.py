#!/usr/bin/env python3
"""Render and score a trained avatar: python test.py -m OUT  (--help lists every setting)."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path

import torch

from arguments import ModelSettings, TestSettings, TrainSettings, load_config, parse_flags
from evaluation import EvaluationSettings, PosedMeshes, evaluate, merge_without_blendshapes
from player.reference_model import load_reference_model, reference_iterations, reference_rig
from scene.avatar import Avatar
from scene.checkpoint import CheckpointError, newest_checkpoint
from scene.inspection import empty_targets
from training.fitting import fit_tracking
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


def print_scores(metrics: dict, split: str) -> None:
    """The headline numbers with their definitions."""
    for name, text in DEFINITIONS.items():
        print(f"  {name}: {text}")
    block = metrics[split]
    for area, scores in (("whole frame", block), ("head mask", block["head"])):
        values = ", ".join(f"{name} {scores[name]:.4f}" if scores[name] is not None else f"{name} not computed"
                           for name in ("psnr", "ssim", "lpips_alex", "lpips_vgg"))
        print(f"{split}, {area}, {block['frames']} frames: {values}")
    for kind in ("parts", "cameras"):
        for name, part in block.get(kind, {}).items():
            what = f"camera {name}" if kind == "cameras" else name.replace("_", " ")
            print(f"{split}, {what}, {part['frames']} frames: psnr {part['psnr']:.4f}, ssim {part['ssim']:.4f}")
    for name in ("lpips_alex", "lpips_vgg"):
        if block[name] is None:
            print(f"{name}: {block[f'{name}_reason']}")


def note(folder: Path, split: str, **facts: object) -> None:
    """Add facts to a split's block of metrics.json."""
    metrics = read_json(folder / "metrics.json")
    metrics[split] |= facts
    write_json(folder / "metrics.json", metrics)


def score_fitted(settings: TestSettings, world: World, avatar: Avatar, degree: int, frames: list[int],
                 options: EvaluationSettings) -> None:
    """Score the frames once more with pose and codes fitted to each, the avatar as it is, under a name of its own."""
    name = f"{settings.split}_fitted"
    fitted = fit_tracking(world, avatar, degree, frames, settings.fit_tracking, settings.batch_size)
    metrics = evaluate(lambda batch: render_on_black(fitted, avatar, degree, batch), world.dataset, frames,
                       settings.model_path, options, head_meshes(world), name)
    note(settings.model_path, name, fit_steps=settings.fit_tracking)
    print(f"{settings.split}, pose and codes fitted to each frame by {settings.fit_tracking} steps: "
          f"PSNR {metrics[name]['psnr']:.4f}, SSIM {metrics[name]['ssim']:.4f} "
          "(says what better tracking would give; not the score)")


def open_run(settings: TestSettings, device: torch.device) -> tuple[World, Avatar, int, bool]:
    """The data set, the avatar, its SH degree, and whether the run refined its tracking.

    Of a run of train.py or a model of the reference.
    """
    refined = False
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
        refined = run.refinement.refine_tracking
        correct = refined and not settings.as_tracked
        checkpoint = newest_checkpoint(settings.model_path, settings.iteration, with_training=correct)
        world = open_world(data, run.model, run.run.seed, device)
        check_fits(checkpoint, world, f"checkpoint of iteration {checkpoint.iteration}")
        if correct:
            world = corrected(world, checkpoint, run.refinement)
        avatar, degree = checkpoint.avatar.to(device), int(checkpoint.state["sh_degree"])
        iteration = checkpoint.iteration
    log.info("%s: iteration %d, %d Gaussians", settings.model_path, iteration, avatar.count)
    return world, avatar, degree, refined


def test(settings: TestSettings) -> None:
    """Score one split of a run and leave metrics.json, pictures, video and report.html in its folder."""
    if settings.fit_tracking < 0:
        raise ValueError(f"--fit_tracking: wanted a number of steps, 0 for none, got {settings.fit_tracking}")
    world, avatar, degree, refined = open_run(settings, resolve_device(settings.device))
    options = EvaluationSettings(batch=settings.batch_size, lpips=settings.lpips, lpips_folder=settings.lpips_weights,
                                 lpips_every=settings.lpips_every, background=settings.background,
                                 pictures=settings.pictures, fps=settings.fps, video=settings.video)
    frames = frames_of(world, settings.split)
    black = empty_targets(world.dataset, frames)
    if black is not None:
        raise ValueError(black)
    metrics = evaluate(lambda batch: render_on_black(world, avatar, degree, batch), world.dataset, frames,
                       settings.model_path, options, head_meshes(world), settings.split, groups_of(world, frames))
    if refined:
        note(settings.model_path, settings.split, tracking="as tracked" if settings.as_tracked else "corrected")
    if settings.without_blendshapes is not None:
        merge_without_blendshapes(settings.model_path / "metrics.json", settings.without_blendshapes / "metrics.json")
    print_scores(metrics, settings.split)
    if settings.fit_tracking > 0:
        score_fitted(settings, world, avatar, degree, frames, options)
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
