"""Refinement of the tracking: small corrections of each frame's camera pose and codes, learnt through the pictures.

A correction is one row of a table: a turn of the head against the camera (Cayley vector, nearly the rotation vector,
about the head's centre) and a shift (metres, camera axes), and what is added to the expression codes, jaw, eyes and
eyelids. Adam steps a row only when its frame is drawn. Rates and the prior are in metres of surface motion, by the
`reach` of each column: how far a unit of it moves the surface.

Constant corrections of all training frames could as well be part of the avatar, and then held-out frames, whose
tracking stays as it is, would not fit it. Their mean is therefore kept at zero. Held-out frames are never learnt from;
`calibrate` predicts their corrections from their own tracking (training/calibration.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from blendshape_ops import Drive
from torch import Tensor

from arguments import RefinementSettings
from flame import Head
from flame.rotations import matrix_from_6d, matrix_from_cayley, matrix_to_6d
from gaussian_renderer import Cameras
from scene.checkpoint import Checkpoint, CheckpointError
from scene.clip import Clip
from scene.rig import CodeChange
from training.calibration import predict, tracked_features
from training.world import World

HEAD_RADIUS, JAW_RADIUS, EYE_RADIUS = 0.1, 0.1, 0.012  # metres: lever of a turn
USUAL_VISITS, MOST_HASTE = 80.0, 4.0  # a frame that is drawn less often takes longer steps, up to this factor
LAST_RATE = 0.1  # of the learning rates, at the last visit
BETAS, EPS = (0.9, 0.99), 1e-15  # a frame is drawn some tens of times: the second moment must settle sooner
PRIOR_UNIT = 1e-3  # metres of surface motion that cost 1
STATE = ("values", "exp_avg", "exp_avg_sq", "visits")


@dataclass(frozen=True)
class Columns:
    """Where a correction's parts stand in its row of `width` numbers."""

    expressions: int

    @property
    def sizes(self) -> list[int]:
        """Columns of turn, shift, expression, jaw, eyes, eyelids."""
        return [3, 3, self.expressions, 6, 12, 2]

    @property
    def width(self) -> int:
        """Columns altogether."""
        return sum(self.sizes)

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor, CodeChange]:
        """Turn [...,3], shift [...,3] and codes of rows [...,width]."""
        turn, shift, *codes = rows.split(self.sizes, dim=-1)
        return turn, shift, CodeChange(*codes)

    def reach(self, head: Head) -> Tensor:
        """Metres that the surface moves with a unit of each column [width] (the vertex that moves farthest)."""
        expression = head.expression_dirs[:, :, :self.expressions].norm(dim=1).amax(dim=0)
        lids = head.eyelids.norm(dim=2).amax(dim=1)
        parts = [torch.full((3,), HEAD_RADIUS), torch.ones(3), expression, torch.full((6,), JAW_RADIUS),
                 torch.full((12,), EYE_RADIUS), lids]
        return torch.cat([part.float() for part in parts])


def corrected_cameras(cameras: Cameras, turn: Tensor, shift: Tensor, center: Tensor) -> Cameras:
    """Cameras [B] that see the head turned by Cayley vectors `turn` [B,3] about `center` [3] (world) and shifted.

    Both in camera axes: x -> Cay(turn) (R (x - center)) + (R center + t) + shift. Differentiable.
    """
    extra = matrix_from_cayley(turn)
    place = (cameras.R @ center) + cameras.t
    R = extra @ cameras.R
    return replace(cameras, R=R, t=place + shift - R @ center)


class Refinement:
    """Corrections [T,width] of all frames of a world, with the state of their Adam, on the world's device.

    `visits`: how many times each frame will be drawn, for the schedule of the rates. `frames`: those that are learnt,
    whose mean is kept at zero; None: nothing is tied together (each frame fitted on its own).
    """

    def __init__(self, world: World, settings: RefinementSettings, visits: float, frames: Tensor | None) -> None:
        self.world, self.settings, self.expected_visits = world, settings, visits
        self.columns = Columns(world.rig.num_expressions)
        device = world.cameras.R.device
        shape = (len(world.cameras.R), self.columns.width)
        self.values, self.exp_avg, self.exp_avg_sq = (torch.zeros(shape, device=device) for _ in range(3))
        self.visits = torch.zeros(shape[0], 1, device=device)
        self.frames, self.learnt = frames, None
        if frames is not None:
            self.learnt = torch.zeros(shape[0], 1, device=device).index_fill_(0, frames.to(device), 1.0)
        self.reach = self.columns.reach(world.rig.head).to(device)
        s = settings
        rates = [s.refine_pose_lr] * 2 + [s.refine_expression_lr] + [s.refine_joint_lr] * 3
        haste = min(max(USUAL_VISITS / visits, 1.0), MOST_HASTE)
        metres = torch.cat([torch.full((n,), haste * rate) for n, rate in zip(self.columns.sizes, rates, strict=True)])
        # A column that moves nothing has no rate in its own unit.
        self.rates = torch.where(self.reach > 0, metres.to(device) / self.reach.clamp_min(1e-12), 0.0)
        self.center = world.rig.posed.neutral.mean(dim=0).to(device)

    def rows(self, frames: Tensor) -> Tensor:
        """The corrections of frames [B] as a leaf [B,width] whose gradient `update` takes."""
        return self.values[frames].requires_grad_(True)

    def view(self, frames: Tensor, rows: Tensor) -> tuple[Cameras, Drive]:
        """Cameras and drive of frames [B] with corrections `rows`; differentiable in them."""
        turn, shift, change = self.columns.parts(rows)
        cameras = corrected_cameras(self.world.cameras_of(frames), turn, shift, self.center)
        return cameras, self.world.rig.drive_changed(frames, change, cameras.centers)

    def prior(self, rows: Tensor) -> Tensor:
        """The weighted cost of corrections: mean over frames of the squared motion that they stand for."""
        return self.settings.refine_prior * ((rows * (self.reach / PRIOR_UNIT)) ** 2).sum(dim=1).mean()

    @torch.no_grad()
    def update(self, frames: Tensor, gradient: Tensor) -> None:
        """One Adam step of the rows of frames [B] by their gradient [B,width]; other rows and their moments stay.

        A frame that a batch holds twice gets the sum of its gradients. No shape depends on numbers, and nothing waits
        for the device, so that a step can be captured.
        """
        drawn = torch.zeros_like(self.visits).index_fill_(0, frames, 1.0)
        full = torch.zeros_like(self.values).index_add_(0, frames, gradient)
        self.visits += drawn
        self.exp_avg.lerp_(full, drawn * (1 - BETAS[0]))
        self.exp_avg_sq.lerp_(full * full, drawn * (1 - BETAS[1]))
        visits = self.visits.clamp_min(1)
        size = (self.exp_avg_sq / (1 - BETAS[1] ** visits)).sqrt() + EPS
        rate = self.rates * LAST_RATE ** (self.visits / self.expected_visits)
        self.values -= drawn * rate * (self.exp_avg / (1 - BETAS[0] ** visits)) / size
        if self.learnt is not None:
            self.values -= self.learnt * ((self.values * self.learnt).sum(dim=0) / self.learnt.sum())

    @torch.no_grad()
    def calibrate(self) -> None:
        """Predict the corrections of all frames that are not learnt, from their tracking and from those that are.

        Changes nothing for training. Without --refine_calibrate they keep the tracker's values.
        """
        if self.frames is None or self.learnt is None or not self.settings.refine_calibrate:
            return
        learnt = self.frames.cpu()
        metres = (self.values * self.reach).double().cpu()
        predicted = predict(tracked_features(self.world, learnt), learnt, metres[learnt], self.columns.sizes)
        rows = torch.where(self.reach > 0, predicted.to(self.values) / self.reach.clamp_min(1e-12), 0.0)
        self.values.copy_(torch.where(self.learnt > 0, self.values, rows))

    @torch.no_grad()
    def codes(self, frames: Tensor) -> Tensor:
        """The corrected codes [B,K] of frames [B] (int64 on the device of the corrections)."""
        change: Tensor = self.columns.parts(self.values[frames])[2].expression
        return self.world.rig.beta[frames] + change

    def corrected_world(self) -> World:
        """The world with the corrections in its rig, cameras and clip, as if the tracker had given them."""
        turn, shift, change = self.columns.parts(self.values)
        cameras = corrected_cameras(self.world.cameras, turn, shift, self.center)
        clip = corrected_clip(self.world.clip, cameras, change)
        return replace(self.world, cameras=cameras, clip=clip, rig=self.world.rig.with_codes(clip.codes))

    def state_dict(self) -> dict[str, Tensor]:
        """Corrections and the state of their Adam, not copies."""
        return {name: getattr(self, name) for name in STATE}

    def load_values(self, values: Tensor) -> None:
        """Take over corrections [T,width] alone. ValueError when they are not for these frames and columns."""
        if values.shape != self.values.shape:
            raise ValueError(f"corrections: wanted {list(self.values.shape)} (frames, columns), "
                             f"got {list(values.shape)}; is this the data set of the run?")
        self.values.copy_(values)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave. ValueError naming the entry that is missing or does not fit."""
        for name in STATE:
            mine: Tensor = getattr(self, name)
            got = list(state[name].shape) if name in state else "nothing"
            if got != list(mine.shape):
                raise ValueError(f"refinement.{name}: wanted {list(mine.shape)} (frames, columns), got {got}")
        for name in STATE:
            getattr(self, name).copy_(state[name])


def corrected_clip(clip: Clip, cameras: Cameras, change: CodeChange) -> Clip:
    """`clip` with these cameras and with `change` [T,...] added to its codes."""
    codes, device = clip.codes, clip.codes.expression.device
    expression = codes.expression.clone()
    expression[:, :change.expression.shape[1]] += change.expression.to(device)
    eyes = [orthonormal(codes.eyes[:, i:i + 6] + change.eyes[:, i:i + 6].to(device)) for i in (0, 6)]
    codes = replace(codes, expression=expression, jaw=orthonormal(codes.jaw + change.jaw.to(device)),
                    eyes=torch.cat(eyes, dim=1), eyelids=codes.eyelids + change.eyelids.to(device))
    return replace(clip, codes=codes, R=cameras.R.to(clip.R.device), t=cameras.t.to(clip.t.device))


def corrected(world: World, checkpoint: Checkpoint, settings: RefinementSettings) -> World:
    """`world` with the corrections that a run with --refine_tracking had reached at a checkpoint.

    CheckpointError when it holds none; it must have been read with its training part.
    """
    if "refinement.values" not in checkpoint.training:
        raise CheckpointError(f"checkpoint of iteration {checkpoint.iteration}: wanted the corrections of a run with "
                              "--refine_tracking in its training.safetensors, found none")
    learnt = Refinement(world, settings, 1, None)
    learnt.load_values(checkpoint.training["refinement.values"])
    return learnt.corrected_world()


def orthonormal(six: Tensor) -> Tensor:
    """6D rotations [...,6] whose rows are made orthonormal, as every reader of a clip may expect."""
    return matrix_to_6d(matrix_from_6d(six))
