"""Attributes and networks of an avatar: leaves of a step, saved and loaded by name, refused where they do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from arguments import ModelSettings, OptimizationSettings
from scene.avatar import Avatar
from scene.checkpoint import (
    AVATAR_FILE,
    STATE_FILE,
    Checkpoint,
    CheckpointError,
    avatar_tensors,
    load_checkpoint,
    save_checkpoint,
)
from scene.extensions import extend
from tests.avatars import small_avatar
from tests.extensions import ExtendedOptimization, add_both
from tests.refinement_scene import true_avatar, true_world
from tests.subjects import ShapesAreKnown
from tests.test_refinement import train_settings
from training.extra_optimizer import ExtraOptimizer
from training.trainer import Trainer

SETTINGS, MODEL = ExtendedOptimization(), ModelSettings()
LEARNT = ["attributes.gain", "networks.tint.unused", "networks.tint.layer.weight", "networks.tint.layer.bias"]


@pytest.fixture(autouse=True)
def both(monkeypatch: pytest.MonkeyPatch) -> None:
    add_both(monkeypatch)


def extended_avatar() -> Avatar:
    return extend(small_avatar(), SETTINGS, MODEL, seed=3)


def saved(folder: Path) -> Path:
    return save_checkpoint(folder, Checkpoint(1, extended_avatar(), {}, {}))


def test_without_a_learning_rate_there_is_none() -> None:
    plain = extend(small_avatar(), replace(SETTINGS, gain_lr=0.0, tint_lr=0.0), MODEL, seed=3)
    assert plain.extended == ()
    assert plain.extra_parameters() == {}
    assert ExtraOptimizer(plain, OptimizationSettings()).state_dict() == {}


def test_the_seed_decides_a_network_and_leaves_other_randomness_alone() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    first, second = extended_avatar(), extended_avatar()
    assert torch.equal(torch.rand(1), wanted)
    for name, value in first.extra_parameters().items():
        assert torch.equal(value, second.extra_parameters()[name]), name


def test_leaves_of_a_step_share_memory_and_fixed_parameters_are_not_learnt() -> None:
    avatar = extended_avatar()
    assert list(avatar.extra_parameters()) == LEARNT
    twin = avatar.on_new_leaves()
    for name, leaf in twin.extra_parameters().items():
        original = avatar.extra_parameters()[name]
        assert leaf is not original
        assert leaf.is_leaf and leaf.requires_grad
        assert leaf.data_ptr() == original.data_ptr(), name


def test_rows_follow_a_selection_and_so_do_their_moments() -> None:
    avatar = extended_avatar()
    with torch.no_grad():
        avatar.attributes["gain"].copy_(torch.arange(40.0)[:, None])
    optimizer = ExtraOptimizer(avatar, SETTINGS)
    gradients = [torch.ones_like(p) if "unused" not in n else None for n, p in avatar.extra_parameters().items()]
    gradients[0] = torch.arange(40.0)[:, None]
    optimizer.step(gradients)
    index, fresh = torch.tensor([5, 3, 3]), torch.tensor([False, False, True])
    values = avatar.attributes["gain"].detach().clone()
    avatar.select_rows(index, avatar.neutral.detach()[index])
    optimizer.select_rows(index, fresh, avatar)
    assert torch.equal(avatar.attributes["gain"], values[index])
    moments = optimizer.state_dict()["attributes.gain.exp_avg"][:, 0]
    assert moments.tolist() == pytest.approx([0.5, 0.3, 0])  # 1 - beta1 of the gradient
    optimizer.step([torch.zeros_like(p) for p in avatar.extra_parameters().values()])
    assert not torch.equal(avatar.attributes["gain"], values[index])  # the momentum of what is optimised now


def test_a_checkpoint_brings_them_back(tmp_path: Path) -> None:
    path = saved(tmp_path)
    loaded, wanted = load_checkpoint(path).avatar, avatar_tensors(extended_avatar())
    assert loaded.extended == ("gain", "tint")
    assert loaded.network_options == {"tint": {"expressions": 5}}
    for name, tensor in avatar_tensors(loaded).items():
        assert torch.equal(tensor, wanted[name]), name
    assert "networks.tint.fixed" in wanted


@pytest.mark.parametrize(("name", "value", "message"), [
    ("attributes.gain", torch.zeros(40, 2), r"gain: wanted float32 \[40, 1\], got torch\.float32 \[40, 2\]"),
    ("attributes.shine", torch.zeros(40, 1), r"attribute 'shine', which .* does not know; it knows \['gain'\]"),
    ("networks.tint.layer.bias", torch.zeros(4), r"network 'tint' with options .*'layer\.bias': \[4\]"),
    ("networks.glow.bias", torch.zeros(4), r"state\.json names no network for \['glow\.bias'\]"),
])
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, name: str, value: torch.Tensor, message: str) -> None:
    path = saved(tmp_path)
    save_file(load_file(path / AVATAR_FILE) | {name: value}, path / AVATAR_FILE)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize(("networks", "message"), [
    ({"glow": {}}, "the network 'glow', which this program does not know"),
    ({"tint": {"width": 3}}, "network 'tint' with options"),
    ({"tint": {"expressions": 10**12}}, "network 'tint' with options"),  # takes no memory
    ({"tint": 3}, "network 'tint' with options"),
    ([1], "wanted options by name"),
])
def test_options_that_do_not_fit_are_refused(tmp_path: Path, networks: object, message: str) -> None:
    path = saved(tmp_path)
    state = json.loads((path / STATE_FILE).read_text()) | {"networks": networks}
    (path / STATE_FILE).write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_no_shape_of_an_extended_step_depends_on_values(tmp_path: Path) -> None:
    settings = replace(train_settings(tmp_path), optimization=ExtendedOptimization(batch_size=2, densify=False))
    trainer = Trainer(settings, true_world(), torch.device("cpu"))
    trainer.avatar = replace(extend(true_avatar(), SETTINGS, MODEL, 0), sway=None)
    trainer._renew_optimizer()
    before = {name: value.detach().clone() for name, value in trainer.avatar.extra_parameters().items()}
    trainer.step()
    trainer._inputs.load(trainer.iteration, trainer.sampler, trainer._targets)
    with ShapesAreKnown():
        trainer._compute()
    same = [name for name, value in trainer.avatar.extra_parameters().items() if torch.equal(value, before[name])]
    assert same == ["networks.tint.unused"]
