"""One training run: steps, densification, and everything a checkpoint must bring back."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from blendshape_ops import Drive, FactoredAdam, Posed, target_image
from torch import Tensor

from arguments import TrainSettings
from gaussian_renderer import Cameras, DensifyStats, RenderOutput, render
from gaussian_renderer.capture import CapturedSizes
from scene.avatar import Avatar
from scene.checkpoint import Checkpoint, CheckpointError, check_names, save_checkpoint
from scene.clip import Clip
from scene.densify import RowSelection, collects_stats, densify, is_densify_step, is_last_pruning_step, keep_only
from scene.extensions import extend
from scene.initialize import create_avatar, seen_range
from scene.schema import active_sh_degree
from scene.size_sampler import training_sampler
from training.exchange import Exchange
from training.extra_optimizer import ExtraOptimizer
from training.inputs import StepInputs
from training.losses import LossContext, Perceptual, weighted_losses
from training.mouth_inside import Hidden, MouthInside, hidden_in_mouth
from training.refinement import refinement_of_run
from training.targets import choose_targets
from training.team import ALONE, Team, Vote
from training.unseen import seen_or_back
from training.world import World
from utils.images import Size

log = logging.getLogger(__name__)
_OPTIMIZER = ("steps", "neutral_exp_avg", "neutral_exp_avg_sq", "difference_exp_avg", "difference_exp_avg_sq")
_STATS = ("grad_sum", "count", "max_radius")


@dataclass(frozen=True)
class StepResult:
    """What a step did: detached weighted loss terms, the rendering and its target (for logging), row changes if any.

    The tensors may be overwritten by the next step.
    """

    losses: dict[str, Tensor]
    output: RenderOutput
    rgba: Tensor
    rows: RowSelection | None


class Trainer:
    """Learns an avatar from a world. All randomness comes from its own generators, seeded by the run's seed."""

    def __init__(
        self, settings: TrainSettings, world: World, device: torch.device, perceptual: Perceptual | None = None,
        capture: bool = True, team: Team = ALONE,
    ) -> None:
        """`settings`: what they leave open is decided here. `capture`: on a GPU, replay steps as CUDA graphs.
        `team`: the processes that share each batch; in all of them the same methods are called in the same order.
        """
        self.settings = settings = settings.decided(world.several_cameras)
        self.world, self.device, self.perceptual = world, device, perceptual
        self.exchange = Exchange(team, settings.optimization.batch_size)
        seed = settings.run.seed
        self.iteration = 0
        self.generator = torch.Generator().manual_seed(seed)
        self.sampler = training_sampler(world.dataset, settings.optimization.batch_size, seed)
        seen = torch.from_numpy(world.dataset.train_indices)
        untrained = create_avatar(world.head, world.rig, world.mouth, settings.model, seed, seen)
        if settings.optimization.sway_lr:
            untrained.sway = world.untrained_sway()
            self.world = world = world.swayed(untrained.sway)
        self.avatar = extend(untrained, settings.optimization, settings.model, seed).to(device)
        share = self.exchange.share
        self._inputs = StepInputs(settings.optimization, share, world.dataset, device)
        self._targets = choose_targets(world.dataset, device, settings.data.targets)
        self.refinement = refinement_of_run(world, settings)
        self._mouth_inside = MouthInside(settings.optimization)
        self.captured = CapturedSizes(self._compute, device, share.count, world.dataset.sizes,
                                      lambda: Vote(team).cast) if capture and device.type == "cuda" else None
        self._renew_optimizer()

    def _renew_optimizer(self) -> None:
        self.optimizer = FactoredAdam(self.avatar.neutral, self.avatar.differences)
        self.exchange.adopt(self.optimizer)
        self.extra_optimizer = ExtraOptimizer(self.avatar, self.settings.optimization)
        self._renew_stats()

    def _renew_stats(self, warm: bool = False) -> None:
        self.stats = DensifyStats.zeros(self.avatar.count, self.device)
        if self.captured is not None:
            self.captured.drop(warm)

    @property
    def sh_degree(self) -> int:
        """The SH degree in use at the present iteration."""
        return active_sh_degree(self.settings.optimization, self.iteration, self.settings.model.sh_degree)

    def render_frames(self, frames: list[int], avatar: Avatar | None = None) -> RenderOutput:
        """Draw frames of the data set, of one size, with the present avatar, over the world's background."""
        index = torch.tensor(frames, device=self.device)
        return self._render(index, None, avatar or self.avatar)

    def _render(self, index: Tensor, stats: DensifyStats | None, avatar: Avatar,
                corrections: Tensor | None = None, limited: bool = True) -> RenderOutput:
        """`corrections`: rows of the refinement to use; None: those reached so far. `limited` as in `Avatar.pose`."""
        return self._draw(index, stats, avatar, corrections, limited)[0]

    def _draw(self, index: Tensor, stats: DensifyStats | None, avatar: Avatar,
              corrections: Tensor | None, limited: bool, size: Size | None = None) -> tuple[RenderOutput, Posed, Drive]:
        """As `_render`; also the Gaussians that are drawn and what drives them. size: see `World.cameras_of`."""
        cameras, drive = self._view(index, corrections, size)
        posed = avatar.pose(drive, self.sh_degree, limited)
        return render(posed, cameras, self.world.background_of(len(index)), stats), posed, drive

    def _view(self, index: Tensor, corrections: Tensor | None = None,
              size: Size | None = None) -> tuple[Cameras, Drive]:
        if self.refinement is None or not self._refining:
            cameras = self.world.cameras_of(index, size)
            return cameras, self.world.rig.drive(index, cameras.centers)
        rows = self.refinement.rows(index).detach() if corrections is None else corrections
        return self.refinement.view(index, rows, size)

    def _pose(self, index: Tensor, limited: bool = True) -> tuple[Posed, Cameras]:
        cameras, drive = self._view(index)
        return self.avatar.pose(drive, self.sh_degree, limited), cameras

    def calibrate(self) -> None:
        """Bring up to date what frames outside training need: their corrections and the range of the training's codes.

        Changes nothing for training.
        """
        if self.refinement is not None:
            self.refinement.calibrate()
            frames = torch.from_numpy(self.world.dataset.train_indices).to(self.device)
            self.avatar.code_range = seen_range(self.refinement.codes(frames))

    def clip(self) -> Clip:
        """What the run keeps of its data set: tracked codes and cameras, corrected as far as training has come."""
        return self._corrected_world().clip

    def _corrected_world(self) -> World:
        return self.world if self.refinement is None else self.refinement.corrected_world()

    def _hidden_in_mouth(self) -> Hidden:
        return hidden_in_mouth(self._corrected_world(), self.avatar, self.sh_degree, self.exchange.share.count,
                               self.exchange.team)

    def target(self, rgba: Tensor) -> Tensor:
        """The pictures [B,3,H,W] that renderings over the world's background should equal."""
        return target_image(rgba, self.world.flat_background, not self.world.whole, torch.float32)[0]

    def step(self) -> StepResult:
        """One optimizer update from one batch of training frames, then densification where it is due."""
        self.iteration += 1
        self._inputs.load(self.iteration, self.sampler, self._targets)
        self._mouth_inside.before_step(self.iteration, self._hidden_in_mouth)
        if self.captured is None:
            losses, output = self._compute()
        else:
            known = self._mouth_inside.hidden is not None
            variant = (self.sh_degree, self._collecting, self._refining, self._perceiving, known)
            losses, output = self.captured.run(self._inputs.size, variant)
        return StepResult(losses, output, self._inputs.rgba, self._change_rows())

    @property
    def _collecting(self) -> bool:
        return collects_stats(self.settings.optimization, self.iteration)

    @property
    def _perceiving(self) -> bool:
        settings = self.settings.optimization
        return bool(settings.lpips_loss) and self.iteration > settings.lpips_from_iter * settings.scale

    @property
    def _refining(self) -> bool:
        return self.refinement is not None and self.iteration > self.refinement.start

    def _compute(self) -> tuple[dict[str, Tensor], RenderOutput]:
        """Loss terms (detached) and rendering of the batch in `self._inputs`, and the optimizers' updates by them."""
        inputs, refinement, exchange = self._inputs, self.refinement if self._refining else None, self.exchange
        frames = inputs.own_frames
        # A leaf of this step: a leaf's gradient node belongs to the stream on which it was first used, and an earlier
        # step's, if still alive in a thread of autograd, would draw that stream into a capture, which then fails.
        avatar = self.avatar.on_new_leaves()
        rows = [] if refinement is None else [refinement.rows(frames)]
        output, posed, drive = self._draw(frames, self.stats if self._collecting else None, avatar,
                                          rows[0] if rows else None, limited=False, size=inputs.size)
        weights = self.settings.optimization
        weights = weights if self._perceiving else replace(weights, lpips_loss=0.0)
        losses = weighted_losses(LossContext.of(self.world, frames, output, posed, drive, inputs.rgba, avatar, weights,
                                                self.perceptual, self._mouth_inside.hidden))
        if refinement is not None:
            losses["tracking"] = refinement.prior(rows[0])
        total = exchange.weighted(torch.stack(list(losses.values())).sum())
        extra = list(avatar.extra_parameters().values())
        gradients = torch.autograd.grad(total, [*rows, avatar.neutral, *extra], allow_unused=True)
        self.avatar.neutral.grad, *others = exchange.gradients(gradients[len(rows):])
        exchange.factors(self.optimizer)
        self.optimizer.step(inputs.rates[0], inputs.rates[1], self.sh_degree)
        self.optimizer.zero_grad()
        self.extra_optimizer.step(others)
        if refinement is not None:
            refinement.update(inputs.frames, exchange.rows(gradients[0]))
        detached = RenderOutput(output.image.detach(), output.alpha.detach(), output.radii)
        return {name: term.detach() for name, term in losses.items()}, detached

    def _change_rows(self) -> RowSelection | None:
        """Densification and the last pruning, where they are due."""
        optimization = self.settings.optimization
        if is_densify_step(optimization, self.iteration):
            stats = self.exchange.stats(self.stats)
            rows = densify(self.avatar, stats, optimization, self.iteration, self.generator)
        elif is_last_pruning_step(optimization, self.iteration):
            rows = self._prune_unseen()
        else:
            return None
        self.optimizer.select_rows(rows.index, rows.fresh, self.avatar.neutral, self.avatar.differences)
        self.extra_optimizer.select_rows(rows.index, rows.fresh, self.avatar)
        self.exchange.adopt(self.optimizer)
        self.exchange.require_same(self.avatar)
        self._mouth_inside.hidden = None
        self._renew_stats(warm=True)  # a capture costs as much as some steps, and eager ones before it as much again
        return rows

    def _prune_unseen(self) -> RowSelection:
        """Remove what no training picture shows, but for the back of the head: it closes the head from other sides."""
        least, exchange = self.settings.optimization.prune_unseen, self.exchange
        keep = seen_or_back(self.world, self.avatar, partial(self._pose, limited=False), least, exchange.share.count,
                            exchange.team)
        rows = keep_only(self.avatar, keep)
        log.info("%d Gaussians that no training picture shows were removed, %d are left", rows.pruned, len(rows.index))
        return rows

    def save(self, folder: Path, keep: int) -> None:
        """Write a checkpoint from which `restore` continues exactly. CheckpointError when it cannot be written.

        Of several processes all call it, the first one writes.
        """
        stats = self.exchange.stats(self.stats)
        if self.exchange.team.leads:
            self.calibrate()
            save_checkpoint(folder, self.checkpoint(stats), keep)

    def checkpoint(self, stats: DensifyStats | None = None) -> Checkpoint:
        """What `restore` takes, not copies. stats: of all processes together; None: this one's."""
        stats, optimizer = stats or self.stats, self.optimizer.state_dict()
        training = {f"optimizer.{name}": optimizer[name] for name in _OPTIMIZER}
        training |= {f"stats.{name}": getattr(stats, name) for name in _STATS}
        training |= {f"extensions.{name}": value for name, value in self.extra_optimizer.state_dict().items()}
        training["generator"] = self.generator.get_state()
        training |= self._mouth_inside.state_dict()
        if self.refinement is not None:
            training |= {f"refinement.{name}": value for name, value in self.refinement.state_dict().items()}
        state = {"sampler": self.sampler.state_dict(), "gaussians": self.avatar.part_counts(),
                 "head": self.world.head.name, "expressions": self.world.rig.num_expressions,
                 "sh_degree": self.sh_degree}
        return Checkpoint(self.iteration, self.avatar, training, state)

    def close(self) -> None:
        """No more steps."""
        if self.captured is not None:
            self.captured.drop()
        self.exchange.team.leave()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint, exactly as if never interrupted; CheckpointError when it does not fit."""
        where = f"checkpoint of iteration {checkpoint.iteration}"
        expected = {f"optimizer.{n}" for n in _OPTIMIZER} | {f"stats.{n}" for n in _STATS} | {"generator"}
        refined = [] if self.refinement is None else list(self.refinement.state_dict())
        expected |= {f"refinement.{name}" for name in refined}
        expected |= {f"extensions.{name}" for name in self.extra_optimizer.state_dict()}
        if checkpoint.avatar.extended != self.avatar.extended:
            raise CheckpointError(f"{where}: learns {checkpoint.avatar.extended or 'nothing'} besides its tables, the "
                                  f"settings ask for {self.avatar.extended or 'nothing'} (scene/extensions.py); with a "
                                  "learning rate of 0 in config.json an attribute or network is not made")
        check_names(expected, set(checkpoint.training) - set(MouthInside.STATE), where)
        check_fits(checkpoint, self.world, where)
        self.iteration = checkpoint.iteration
        self.avatar = checkpoint.avatar.to(self.device)
        self.world = self.world.swayed(checkpoint.avatar.sway)
        if self.refinement is not None:
            self.refinement.world = self.world
        self._renew_optimizer()
        try:
            saved = {name: checkpoint.training[f"optimizer.{name}"].to(self.device) for name in _OPTIMIZER}
            self.optimizer.load_state_dict(saved)
            self.extra_optimizer.load_state_dict({n: checkpoint.training[f"extensions.{n}"]
                                                  for n in self.extra_optimizer.state_dict()})
            self.sampler.load_state_dict(checkpoint.state["sampler"])
            self._mouth_inside.load_state_dict(checkpoint.training, self.avatar)
            if self.refinement is not None:
                self.refinement.load_state_dict({n: checkpoint.training[f"refinement.{n}"] for n in refined})
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{where}: {error}") from error
        self._inputs.forget()
        if self.exchange.team.leads:  # the others begin with nothing: what is saved is the sum
            self.stats = DensifyStats(*(checkpoint.training[f"stats.{n}"].to(self.device) for n in _STATS))
        self.generator.set_state(checkpoint.training["generator"])


def check_fits(checkpoint: Checkpoint, world: World, where: str) -> None:
    """CheckpointError when the avatar was made for another head model or another number of expressions."""
    for name, here in (("head", world.head.name), ("expressions", world.rig.num_expressions)):
        saved = checkpoint.state.get(name)
        if saved != here:
            raise CheckpointError(f"{where}: made with {name} {saved!r}, this data set gives {here!r}")
