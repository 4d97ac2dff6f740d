"""Run by tests/test_adding_things.py in a tree with everything that CONTRIBUTING.md adds: SUBJECT FOLDER."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

import test as test_program
import train as train_program
from arguments import TestSettings, TrainSettings, load_config, parse_flags
from arguments.export_settings import ExportSettings
from exporting import FORMATS, exporter_of
from player import Player, open_player
from player.fast import FastRenderer
from scene.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from training.trainer import Trainer
from training.world import open_world, render_on_black

CPU = torch.device("cpu")
FLAGS = ["--test_frames", "3", "--num_face_gaussians", "300", "--num_teeth_gaussians", "20", "--num_expressions", "12",
         "--batch_size", "2", "--schedule_scale", "0.01", "--test_views", "0", "--densify_grad_threshold", "5e-4",
         "--iterations", "16", "--checkpoint_interval", "8", "--keep_checkpoints", "0", "--refine_from_iter", "400",
         "--gain_lr", "0.01", "--gain_loss", "0.1", "--tint_lr", "0.01", "--tensorboard", "False", "--device", "cpu"]
LAST = "checkpoints/iteration_00000016"


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return {**load_file(run / LAST / "avatar.safetensors"), **load_file(run / LAST / "training.safetensors")}


def train(subject: Path, run: Path, *more: str) -> None:
    flags = ["-s", str(subject), "-m", str(run), "--head", str(run.parent / "open_head.safetensors"), *FLAGS, *more]
    train_program.train(parse_flags(TrainSettings, "train.py", flags))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def trained_facts(subject: Path, folder: Path) -> dict[str, object]:
    whole, resumed = folder / "whole", folder / "resumed"
    train(subject, whole)
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / LAST)
    train(subject, resumed, "--resume", "True")
    a, b = tensors(whole), tensors(resumed)
    settings = load_config(TrainSettings, whole)
    trainer = Trainer(settings, open_world(settings.data, settings.model, settings.run.seed, CPU), CPU)
    start = {name: value.detach().clone() for name, value in trainer.avatar.extra_parameters().items()}
    count = trainer.avatar.count
    terms = sorted(trainer.step().losses)
    checkpoint = load_checkpoint(whole / LAST)
    plain = replace(checkpoint.avatar, attributes={}, networks=torch.nn.ModuleDict(), network_options={})
    try:
        trainer.restore(Checkpoint(16, plain, checkpoint.training, checkpoint.state))
        mismatch = "restored"
    except CheckpointError as error:
        mismatch = str(error)
    end = checkpoint.avatar.extra_parameters()
    # Rows of an attribute are renumbered by densification, so its spread is compared.
    moved = {name: float((end[name].detach() - value.flatten()[0]).abs().max()) for name, value in start.items()}
    return {"different_after_resume": [n for n in a.keys() | b.keys() if n not in a or not torch.equal(a[n], b[n])],
            "saved": sorted(a), "moved": moved, "gaussians": [count, checkpoint.avatar.count],
            "gain_shape": list(end["attributes.gain"].shape), "terms": terms, "checkpoint": str(whole / LAST),
            "mismatch": mismatch}


def played_facts(run: Path) -> dict[str, object]:
    test_program.test(TestSettings(run, lpips=(), pictures="selected", video=False, report=False, device="cpu"))
    player = open_player(run, CPU)
    frame = [int(player.clip.test[0])]
    codes, cameras = player.codes_of(frame), player.cameras_of(frame)
    shown = player.render(codes, cameras).image
    opened = test_program.open_run(TestSettings(run, device="cpu"), CPU)
    world, avatar, degree = opened.tracked, opened.avatar, opened.sh_degree
    plain = replace(player.avatar, attributes={}, networks=torch.nn.ModuleDict(), network_options={})
    other = Player(player.head, plain, player.clip, player.sh_degree, player.num_expressions, CPU, "plain")
    facts: dict[str, object] = {
        "player_against_test": difference(shown, render_on_black(world, avatar, degree, frame)[0]),
        "without_additions": difference(shown, other.render(codes, cameras).image), "head_file": player.clip.head,
        "frames_tested": json.loads((run / "metrics.json").read_text())["test"]["frames"]}
    for half in (False, True):
        fast = FastRenderer(player, cameras.width, cameras.height, half=half).render(codes, cameras)
        facts[f"fast_against_player_{'half' if half else 'full'}"] = difference(shown, fast.image)
    refusals = {}
    for name in FORMATS:
        try:
            exporter_of(name)(player, ExportSettings(run, format=name))  # type: ignore[arg-type]
            refusals[name] = "written"
        except ValueError as error:
            refusals[name] = str(error)
    return facts | {"exports": refusals}


def main() -> None:
    subject, folder = Path(sys.argv[1]), Path(sys.argv[2])
    facts = trained_facts(subject, folder)
    facts |= played_facts(folder / "whole") | {"tree": str(Path(train_program.__file__).parent)}
    (folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
