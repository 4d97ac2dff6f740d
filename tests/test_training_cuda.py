"""Training on a GPU: a captured step does what the plain one does, and pictures arrive however they are kept."""

from __future__ import annotations

import gc
import math
from pathlib import Path

import pytest
import torch

from arguments import DataSettings, ModelSettings, OptimizationSettings, RunSettings, TrainSettings
from gaussian_renderer import capture
from player import Player
from player.fast import FastRenderer
from tests.extensions import ExtendedOptimization, add_both
from tests.subjects import nothing_waits, write_subject
from training.targets import ResidentTargets, StreamedTargets
from training.trainer import Trainer
from training.world import open_world
from utils.lpips import NETWORKS, Lpips

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return write_subject(tmp_path_factory.mktemp("subject"), 12, 64)


def make_trainer(subject, **more):
    # A hundredth of the schedule: SH degrees rise every 10 steps; Gaussians densify every 5 steps if told to.
    optimization = more.pop("optimization", OptimizationSettings)(
        batch_size=2, schedule_scale=0.01, densify=more.pop("densify", False))
    data = DataSettings(subject, test_frames=3, cache=more.pop("cache", "ram"), targets=more.pop("targets", "auto"))
    settings = TrainSettings(data, RunSettings(Path("unused")),
                             ModelSettings(num_face_gaussians=2000, num_teeth_gaussians=50), optimization)
    device = torch.device("cuda", torch.cuda.current_device())
    return Trainer(settings, open_world(settings.data, settings.model, 0, device), device, **more)


def losses_of(trainer, steps):
    return [float(sum(trainer.step().losses.values())) for _ in range(steps)]


def test_a_captured_step_trains_as_the_plain_one(subject):
    captured, plain = make_trainer(subject), make_trainer(subject, capture=False)
    got, wanted = losses_of(captured, 60), losses_of(plain, 60)
    assert captured.captured.captures >= 3  # one for each SH degree that stays for more than the warm-up
    assert int(captured.optimizer.steps) == 60
    # Atomics add gradients in any order, and Adam turns the sign of a vanishing gradient into a step.
    assert got == pytest.approx(wanted, rel=2e-2)
    assert got[-1] < 0.5 * got[0]


def test_a_captured_step_with_lpips_trains_as_the_plain_one(subject):
    torch.manual_seed(0)
    network = Lpips(NETWORKS["alex"]).cuda()  # of random weights, for which nothing is downloaded
    for head in network.heads:
        head.fill_(1.0)

    def trainer(capture):
        def optimization(**more):
            return OptimizationSettings(lpips_loss=0.05, lpips_from_iter=2000, **more)  # a hundredth: step 21 on
        return make_trainer(subject, perceptual=network, optimization=optimization, capture=capture)

    captured, plain = trainer(True), trainer(False)
    got, wanted = losses_of(captured, 60), losses_of(plain, 60)
    assert captured.captured.captures >= 4  # as above, and one for LPIPS
    assert got == pytest.approx(wanted, rel=2e-2)
    assert "lpips" in captured.step().losses


def test_a_captured_step_that_darkens_the_mouth_trains_as_the_plain_one(subject):
    def optimization(**more):
        return OptimizationSettings(dark_mouth_loss=5.0, dark_mouth_from_iter=2000, **more)  # a hundredth: step 21 on

    captured, plain = (make_trainer(subject, optimization=optimization, capture=capture) for capture in (True, False))
    got, wanted = losses_of(captured, 60), losses_of(plain, 60)
    assert captured.captured.captures >= 4  # one for each SH degree that stays, and one for what is hidden
    assert got == pytest.approx(wanted, rel=2e-2)
    assert captured.step().losses["dark_mouth"] > 0


def test_a_capture_survives_an_older_graph_that_is_still_alive(subject):
    """As one that a thread of autograd has not let go of yet (found by the memory checker, which is slow)."""
    trainer = make_trainer(subject)
    trainer.step()
    kept = trainer._render(torch.tensor([0, 1], device=trainer.device), None, trainer.avatar).image
    losses_of(trainer, 8)
    assert kept.requires_grad
    assert trainer.captured.captures == 1


def test_what_no_picture_shows_goes_and_training_goes_on(subject):
    trainer = make_trainer(subject, densify=True)
    losses = losses_of(trainer, 149)  # densification ends with step 150
    before = trainer.avatar.count
    rows = trainer.step().rows
    assert rows.pruned == before - trainer.avatar.count > 0
    captures = trainer.captured.captures
    assert max(losses_of(trainer, 9)) < 2 * max(losses[-20:])
    assert trainer.captured.captures == captures + 1


def test_densification_renews_the_graph(subject):
    trainer = make_trainer(subject, densify=True)
    before = trainer.avatar.count
    losses = losses_of(trainer, 200)  # densification ends at 150
    assert trainer.avatar.count != before
    assert trainer.captured.captures > 0
    assert losses[-1] < 0.5 * losses[0]


def test_a_step_after_densification_is_captured_at_once(subject):
    trainer = make_trainer(subject, densify=True)
    while trainer.step().rows is None or trainer.iteration < 100:
        pass
    captures = trainer.captured.captures
    key, count = trainer.captured._steps[trainer.world.dataset.sizes[0]]._key, trainer.avatar.count
    trainer.step()
    assert trainer.captured._steps[trainer.world.dataset.sizes[0]]._key == key  # else this step begins another variant
    assert trainer.captured.captures == captures + 1
    assert trainer.optimizer.state_dict()["neutral_exp_avg"].shape[0] == count


def test_lists_that_grew_lead_to_another_capture(subject, monkeypatch):
    # The lists of a learning avatar grow when they like, so what they need is told here, in shares of their room.
    usage, needed = capture.list_usage, 0.5
    monkeypatch.setattr(capture, "list_usage", lambda *picture: (needed * usage(*picture)[1], usage(*picture)[1]))
    trainer = make_trainer(subject)
    losses_of(trainer, 45)  # SH degrees, statistics and the refinement of tracking, which begins at step 41, came in
    captures = trainer.captured.captures
    losses_of(trainer, 5)
    assert trainer.captured.captures == captures
    needed = 1.1
    trainer.step()
    needed = 0.5
    losses_of(trainer, capture.WARM_UP + 2)
    assert trainer.captured.captures == captures + 1


@pytest.mark.parametrize("how", [{"cache": "stream"}, {"targets": "host"}], ids=["from the disk", "from memory"])
def test_streamed_targets_are_the_resident_ones(subject, how):
    resident, streamed = make_trainer(subject), make_trainer(subject, **how)
    assert isinstance(resident._targets, ResidentTargets)
    assert isinstance(streamed._targets, StreamedTargets)
    for _ in range(15):
        first, second = resident.step(), streamed.step()
        assert torch.equal(first.rgba, second.rgba)
        assert torch.equal(resident._inputs.frames, streamed._inputs.frames)


def test_targets_cannot_be_on_the_gpu_before_they_are_decoded(subject):
    with pytest.raises(ValueError, match="--targets gpu: the images are streamed"):
        make_trainer(subject, cache="stream", targets="gpu")


def test_a_step_does_not_wait(subject):
    trainer = make_trainer(subject, capture=False)
    losses_of(trainer, 45)
    with nothing_waits():
        for _ in range(5):
            trainer.step()


def test_attributes_and_networks_train_and_play_in_a_captured_graph(subject, monkeypatch):
    add_both(monkeypatch)
    runs = [make_trainer(subject, densify=True, optimization=ExtendedOptimization, capture=capture)
            for capture in (True, False)]
    got, wanted = (losses_of(trainer, 40) for trainer in runs)
    assert runs[0].captured.captures >= 1
    assert got[:5] == pytest.approx(wanted[:5], rel=2e-2)
    for name, values in runs[0].avatar.extra_parameters().items():
        if name == "sway.values":
            continue  # test_what_sways_is_learnt_in_a_captured_graph
        moved = float((values.detach() - runs[1].avatar.extra_parameters()[name].flatten()[0]).abs().max())
        assert moved > 1e-3 or "unused" in name, name
    assert int(runs[0].extra_optimizer.state_dict()["attributes.gain.step"]) == 40
    world = runs[0].world
    player = Player(world.head, runs[0].avatar, world.clip, runs[0].sh_degree, world.rig.num_expressions,
                    runs[0].device, "extended")
    frames = [0, 1]
    fast = FastRenderer(player, 64, 64, batch=2)
    cameras = player.cameras_of(frames, 64, 64)
    for _ in range(4):
        shown = fast.render(player.codes_of(frames), cameras).image
    assert float((shown - player.render(player.codes_of(frames), cameras).image).abs().max()) < 0.02


def test_what_sways_is_learnt_in_a_captured_graph(subject):
    def optimization(**more):
        return OptimizationSettings(sway_lr=4e-4, **more)  # for batches of 8; these are of 2

    runs = [make_trainer(subject, densify=True, optimization=optimization, capture=capture)
            for capture in (True, False)]
    got, wanted = (losses_of(trainer, 60) for trainer in runs)
    assert runs[0].captured.captures >= 1
    assert got == pytest.approx(wanted, rel=2e-2)
    learnt = runs[0].avatar.sway.values.detach()
    assert float(learnt.abs().max()) > 1e-3  # metres: of 60 steps of a tenth of a millimetre
    # Adam turns the sign of a vanishing gradient into a step, so single numbers differ.
    assert float((learnt - runs[1].avatar.sway.values.detach()).abs().mean()) < 0.3 * float(learnt.abs().mean())
    world = runs[0].world
    player = Player(world.head, runs[0].avatar, world.clip, runs[0].sh_degree, world.rig.num_expressions,
                    runs[0].device, "swaying")
    fast, cameras = FastRenderer(player, 64, 64, batch=2), player.cameras_of([0, 1], 64, 64)
    for _ in range(4):
        shown = fast.render(player.codes_of([0, 1]), cameras).image
    assert float((shown - player.render(player.codes_of([0, 1]), cameras).image).abs().max()) < 0.02


def test_garbage_that_holds_a_graph_does_not_disturb_a_capture(subject):
    """Collected within a capture, an older graph's destruction would invalidate it."""
    trainer = make_trainer(subject)
    losses_of(trainer, 4)
    old, threshold = trainer.captured, gc.get_threshold()
    old.cycle = old  # only the collector frees it
    renewed = make_trainer(subject)
    del old, trainer
    gc.set_threshold(1)
    try:
        assert all(math.isfinite(loss) for loss in losses_of(renewed, 6))
    finally:
        gc.set_threshold(*threshold)
    assert renewed.captured.captures == 1


def test_many_captures_hold_no_more_memory_than_one():
    device = torch.device("cuda", torch.cuda.current_device())
    left = torch.randn(256, 256, device=device)
    step, held = capture.CapturedStep(lambda: left @ left, (device, 1, 64, 64)), []
    for variant in range(40):
        for _ in range(capture.WARM_UP + 1):
            product = step.run(variant)
        held.append(torch.cuda.memory_allocated(device))
        assert torch.cuda.memory_reserved(device) < held[-1] + 2 * capture.SPARE_BYTES
    assert step.captures == 40
    torch.testing.assert_close(product, left @ left)
    assert held[-1] - held[1] < 2**20, "cuBLAS keeps 32 MiB or so for each stream"
