"""Training that goes on while its clip grows: what was learnt is carried over to a world with more frames."""

from __future__ import annotations

import torch
from torch import Tensor

from training.trainer import Trainer
from training.world import World


def grown(trainer: Trainer, world: World) -> Trainer:
    """A trainer of `world` that goes on where `trainer` is, which makes no more steps.

    world: the frames of the trainer's, their tracking as it was, and further ones; the same identity. The avatar, the
    state of its optimizers and the corrections of the frames that there were are taken over; the frames are drawn in a
    new order, and the codes that limit the differences are those of all frames.
    """
    trainer.close()
    saved = trainer.checkpoint()
    captures = trainer.captured is not None
    after = Trainer(trainer.settings, world, trainer.device, trainer.perceptual, capture=captures)
    code_range = after.avatar.code_range
    saved.state["sampler"] = after.sampler.state_dict()
    if after.refinement is not None:
        for name, fresh in after.refinement.state_dict().items():
            saved.training[f"refinement.{name}"] = _begun(fresh, saved.training[f"refinement.{name}"])
    after.restore(saved)
    after.avatar.code_range = code_range
    return after


def _begun(fresh: Tensor, known: Tensor) -> Tensor:
    """The rows of `fresh` with the first ones as they are `known`."""
    return torch.cat([known, fresh[len(known):]])
