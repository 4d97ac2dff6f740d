"""Refinement of tracking on a GPU: captured and plain steps agree with the CPU's, and nothing waits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gaussian_renderer import Cameras
from scene.rig import Rig
from tests.player_subject import EXPRESSIONS
from tests.refinement_scene import HELD_OUT, camera_errors, mistake, mistracked, true_avatar
from tests.subjects import nothing_waits
from tests.test_refinement import train_settings
from training.fitting import fit_tracking
from training.trainer import Trainer
from training.world import World

pytestmark = pytest.mark.gpu
RATES = {"refine_pose_lr": 4e-4, "refine_prior": 0.0, "refine_from_iter": 3_000}


def on_gpu(world: World) -> World:
    device = torch.device("cuda", torch.cuda.current_device())
    c = world.cameras
    cameras = Cameras(c.R.to(device), c.t.to(device), c.K.to(device), c.width, c.height)
    cylinder = replace(world.mouth.cylinder, center=world.mouth.cylinder.center.to(device))
    return replace(world, cameras=cameras, mouth=replace(world.mouth, cylinder=cylinder),
                   rig=Rig(world.head, world.clip.codes, EXPRESSIONS, device))


def wrong_world() -> World:
    return mistracked(mistake(0.03, 3e-3, 0.05) * torch.tensor([[1.0]] * HELD_OUT + [[0.0]]))


def trainer(world: World, folder: Path, capture: bool = True) -> Trainer:
    made = Trainer(train_settings(folder, **RATES), world, world.cameras.R.device, capture=capture)
    made.avatar = true_avatar().to(made.device)
    made._renew_optimizer()
    return made


def test_captured_and_plain_steps_and_the_cpu_correct_alike(tmp_path: Path) -> None:
    world = wrong_world()
    runs = [trainer(on_gpu(world), tmp_path), trainer(on_gpu(world), tmp_path, capture=False), trainer(world, tmp_path)]
    for run in runs:
        for _ in range(40):
            run.step()
    assert runs[0].captured is not None
    assert runs[0].captured.captures >= 1  # corrections begin at the fourth step, so it is theirs
    values = [run.refinement.values.cpu() * run.refinement.reach.cpu() for run in runs if run.refinement is not None]
    assert values[2].abs().max() > 1e-3
    for got in values[:2]:
        # Relative noise of 1e-5 on every gradient parts two runs on the CPU by 2e-4 of the length; atomics and another
        # order of operations add up to more, a wrong gradient sends whole columns elsewhere.
        assert float((got - values[2]).norm()) < 0.05 * float(values[2].norm())
    assert runs[0].refinement is not None
    corrected = runs[0].refinement.corrected_world()
    frames = torch.arange(HELD_OUT)
    here = replace(world, cameras=Cameras(corrected.cameras.R.cpu(), corrected.cameras.t.cpu(), world.cameras.K, 1, 1))
    assert camera_errors(here, frames)[1] < 0.8 * camera_errors(world, frames)[1]


def test_a_refining_step_does_not_wait(tmp_path: Path) -> None:
    run = trainer(on_gpu(wrong_world()), tmp_path, capture=False)
    for _ in range(45):
        run.step()
    with nothing_waits():
        for _ in range(5):
            run.step()


def test_fitting_on_the_gpu_is_that_of_the_cpu() -> None:
    world = wrong_world()
    there = fit_tracking(on_gpu(world), true_avatar().to(torch.device("cuda")), 3, [1, 2], 20, 2)
    here = fit_tracking(world, true_avatar(), 3, [1, 2], 20, 2)
    assert torch.allclose(there.cameras.t.cpu(), here.cameras.t, atol=2e-4)
    assert torch.allclose(there.clip.codes.expression, here.clip.codes.expression, atol=2e-2)
