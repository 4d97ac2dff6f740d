"""No shape in a training step depends on values: what tests/test_training_cuda.py sees on a GPU, seen on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.refinement_scene import true_avatar, true_world
from tests.subjects import ShapesAreKnown
from tests.test_refinement import train_settings
from training.trainer import Trainer


@pytest.mark.parametrize("refined", [False, True])
def test_no_shape_of_a_step_depends_on_values(tmp_path: Path, refined: bool) -> None:
    settings = train_settings(tmp_path)
    settings = replace(settings, refinement=replace(settings.refinement, refine_tracking=refined))
    trainer = Trainer(settings, true_world(), torch.device("cpu"))
    trainer.avatar = true_avatar()
    trainer._renew_optimizer()
    for _ in range(6):  # refinement begins at the fourth
        trainer.step()
    assert trainer._refining == refined
    for _ in range(3):  # a step after others, whatever it finds once found
        trainer._inputs.load(trainer.iteration, trainer.sampler, trainer._targets)
        with ShapesAreKnown():
            trainer._compute()


@pytest.mark.parametrize("wait", [lambda v: v.nonzero(), lambda v: v[v > 0], lambda v: v.unique()])
def test_what_waits_is_found(wait: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with ShapesAreKnown(), pytest.raises(RuntimeError, match="would wait for"):
        wait(torch.ones(1))
