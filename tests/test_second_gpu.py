"""A GPU that is not torch's current one trains, plays and draws as the current one does; needs two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from blendshape_ops import _native
from diff_gaussian_rasterization import rasterize

from arguments import DataSettings, ModelSettings, OptimizationSettings, RunSettings, TrainSettings
from player.fast import SLOTS, FastRenderer
from tests.players import FRAMES, HEIGHT_PIXELS, WIDTH_PIXELS, made_up_player, random_codes
from tests.rasterizer_scenes import random_scene
from tests.subjects import write_subject
from training.log import TrainingLog
from training.trainer import Trainer
from training.world import open_world

DEVICES = ("cuda:0", "cuda:1")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2 or not _native.is_built("cuda"), reason="needs two GPUs"),
]


@pytest.fixture(autouse=True)
def current_is_the_first():
    """Nothing may depend on torch's current device, nor change it."""
    torch.cuda.set_device(0)
    yield
    assert torch.cuda.current_device() == 0


def test_pictures_and_gradients_are_the_same():
    results = []
    for device in DEVICES:
        scene = {name: value.float().to(device).requires_grad_()
                 for name, value in random_scene(2, 500, 64, 48).items()}
        output = rasterize(**scene, width=64, height=48)
        output.image.square().sum().backward()
        results.append([output.image.detach().cpu(), *(value.grad.cpu() for value in scene.values())])
    assert torch.equal(results[0][0], results[1][0])
    for first, second in zip(*results, strict=True):
        assert torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max()))  # sums in any order


@pytest.mark.parametrize("half", [False, True])
def test_the_fast_renderer_draws_the_same(half):
    pictures = []
    for device in DEVICES:
        player = made_up_player(torch.device(device))
        renderer = FastRenderer(player, WIDTH_PIXELS, HEIGHT_PIXELS, half=half)
        drawn = []
        for seed in range(3 * SLOTS):  # a slot that is overwritten in flight shows another frame's pose
            codes = random_codes(1, player.head.n_expression, 0, torch.Generator().manual_seed(seed))
            drawn.append(renderer.render(codes, player.cameras_of([seed % FRAMES])).image.clone())
        pictures.append(torch.cat(drawn).cpu())
    assert torch.allclose(*pictures, atol=1e-5)
    assert pictures[0].std() > 0.05


def test_captured_steps_and_their_log_are_the_same(tmp_path):
    subject = write_subject(tmp_path / "subject", 12, 64)
    losses = []
    for number, device in enumerate(DEVICES):
        settings = TrainSettings(DataSettings(subject, test_frames=3, cache="ram"), RunSettings(Path("unused")),
                                 ModelSettings(num_face_gaussians=1000, num_teeth_gaussians=50),
                                 OptimizationSettings(batch_size=2, schedule_scale=0.01, densify=False))
        place = torch.device(device)
        trainer = Trainer(settings, open_world(settings.data, settings.model, 0, place), place)
        folder = tmp_path / str(number)
        folder.mkdir()
        with TrainingLog(folder, 0, 40, 1, tensorboard=False) as log:
            for _ in range(40):
                log.step(trainer, trainer.step())
            log.flush()
        assert trainer.captured.captures > 0
        rows = (folder / "training.csv").read_text().splitlines()[1:]
        losses.append([float(row.split(",")[1]) for row in rows])
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
    assert losses[0][-1] < losses[0][0]
