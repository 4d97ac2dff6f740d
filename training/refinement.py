"""Refinement of the tracking: small corrections of each moment's head pose and codes, learnt through the pictures.

A correction is one row of a table: a turn of the head against the camera (Cayley vector, nearly the rotation vector,
about the head's centre) and a shift (metres), and what is added to the expression codes, jaw, eyes and eyelids. It
moves the head, so all pictures of a moment share it, whichever camera took them; turn and shift are told in the axes of
one of these cameras, the same at all moments. Adam steps a row only when one of its pictures is drawn. Rates and the
prior are in metres of surface motion, by the `reach` of each column: how far a unit of it moves the surface.

Cameras may be corrected, too: a turn and a shift of each, once for all moments (`refine_camera_lr`).

Constant corrections of all training moments could as well be part of the avatar, and then held-out moments, whose
tracking stays as it is, would not fit it. Their mean is therefore kept at zero, and so is that of the cameras. Held-out
pictures are never learnt from: held-out cameras stay as they are, and `calibrate` predicts the corrections of held-out
moments from their own tracking (training/calibration.py).
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from blendshape_ops import Drive
from torch import Tensor

from arguments import RefinementSettings, TrainSettings
from flame.rotations import matrix_from_cayley
from gaussian_renderer import Cameras
from scene.calibration import Calibration
from scene.checkpoint import Checkpoint, CheckpointError
from scene.clip import corrected_clip
from scene.corrections import Axes, Columns, corrected_cameras
from scene.recording import Recording
from scene.rig import CodeChange
from scene.sway import Sway
from training.calibration import learn_calibration
from training.corrections import CorrectionTable
from training.world import World
from utils.images import Size

log = logging.getLogger(__name__)

PRIOR_UNIT = 1e-3  # metres of surface motion that cost 1
CAMERA_WIDTH = 6  # columns of a camera's correction: turn, shift


def moved_cameras(cameras: Cameras, turn: Tensor, shift: Tensor, pivot: Tensor) -> Cameras:
    """Cameras [B] whose own axes are turned by Cayley vectors `turn` [B,3] about `pivot` [B,3], and shifted [B,3].

    All in camera axes: x -> Cay(turn) (R x + t - pivot) + pivot + shift. Differentiable.
    """
    extra = matrix_from_cayley(turn)
    t = (extra @ (cameras.t - pivot)[..., None])[..., 0] + pivot + shift
    return replace(cameras, R=extra @ cameras.R, t=t)


class Refinement:
    """Corrections of all moments of a world, and of its cameras where they are to be refined, on the world's device.

    visits: how many times each moment will be drawn, for the schedule of the rates. frames: the pictures that are
    learnt from; the mean over their moments is kept at zero; None: nothing is tied together. alone: every picture is
    a moment of its own, whatever its time. start: the iteration of a run after which they are learnt. sway: of the
    avatar whose pose's codes are corrected, too; None: they stay as they are.
    """

    def __init__(self, world: World, settings: RefinementSettings, visits: float, frames: Tensor | None,
                 alone: bool = False, start: int = 0, sway: Sway | None = None) -> None:
        self.world, self.settings, self.frames, self.start = world, settings, frames, start
        self.columns = Columns(world.rig.num_expressions, sway is not None)
        R = world.cameras.R
        recording = Recording.single(len(R)) if alone else world.clip.recording
        self._moments, self._views, self._reference = (torch.from_numpy(numbers).to(R.device) for numbers in (
            recording.time, recording.view, recording.reference))
        self._axes = Axes.of(R, self._reference[self._moments])
        self.reach = self.columns.reach(world.rig.head, sway).to(R.device)
        s = settings
        rates = [s.refine_pose_lr] * 2 + [s.refine_expression_lr] + [s.refine_joint_lr] * 3
        rates += [s.refine_expression_lr] * self.columns.sway
        metres = torch.cat([torch.full((n,), rate) for n, rate in zip(self.columns.sizes, rates, strict=True)])
        # A column that moves nothing has no rate in its own unit.
        own = torch.where(self.reach > 0, metres.to(R.device) / self.reach.clamp_min(1e-12), 0.0)
        learnt = None if frames is None else self._moments[frames.to(R.device)].unique()
        self.table = CorrectionTable(recording.moments, own, visits, learnt)
        self.center = world.rig.posed.neutral.mean(dim=0).to(R)
        self.calibration: Calibration | None = None
        self.camera_table: CorrectionTable | None = None
        if s.refine_camera_lr > 0 and recording.several:
            self._refine_cameras(recording, visits, frames)

    def _refine_cameras(self, recording: Recording, visits: float, frames: Tensor | None) -> None:
        reach, c = self.reach[:CAMERA_WIDTH], self.world.cameras
        learnt = None if frames is None else self._views[frames.to(reach.device)].unique()
        # A camera is drawn as much more often than a moment as there are fewer of them.
        more = recording.moments / len(recording.cameras)
        self.camera_table = CorrectionTable(len(recording.cameras), self.settings.refine_camera_lr / reach,
                                            visits * max(more, 1.0), learnt)
        places = c.R @ self.center + c.t
        self._pivots = torch.stack([places[self._views == view].mean(dim=0)
                                    for view in range(len(recording.cameras))])

    @property
    def values(self) -> Tensor:
        """The corrections [M,width] of all moments."""
        return self.table.values

    def rows(self, frames: Tensor) -> Tensor:
        """The corrections that frames [B] take, as a leaf whose gradient `update` takes.

        [B,width], and with refined cameras `CAMERA_WIDTH` more columns.
        """
        rows = self.table.values[self._moments[frames]]
        if self.camera_table is not None:
            rows = torch.cat([rows, self.camera_table.values[self._views[frames]]], dim=1)
        return rows.requires_grad_(True)

    def view(self, frames: Tensor, rows: Tensor, size: Size | None = None) -> tuple[Cameras, Drive]:
        """Cameras and drive of frames [B] with corrections `rows`; differentiable in them. size: see `cameras_of`."""
        cameras, change = self._corrected(self.world.cameras_of(frames, size), frames, rows)
        return cameras, self.world.rig.drive_changed(frames, change, cameras.centers)

    def _corrected(self, cameras: Cameras, frames: Tensor, rows: Tensor) -> tuple[Cameras, CodeChange]:
        turn, shift, change = self.columns.parts(rows[:, :self.columns.width])
        cameras = corrected_cameras(cameras, turn, shift, self.center, self._axes.at(frames))
        if self.camera_table is not None:
            own = rows[:, self.columns.width:]
            cameras = moved_cameras(cameras, own[:, :3], own[:, 3:], self._pivots[self._views[frames]])
        return cameras, change

    def prior(self, rows: Tensor) -> Tensor:
        """The weighted cost of corrections: mean over frames of the squared motion that they stand for.

        Corrections of cameras cost nothing: few numbers that all pictures agree on need no holding back.
        """
        motion = rows[:, :self.columns.width] * (self.reach / PRIOR_UNIT)
        return self.settings.refine_prior * (motion ** 2).sum(dim=1).mean()

    def update(self, frames: Tensor, gradient: Tensor) -> None:
        """One Adam step of the rows that frames [B] take, by their gradient (as wide as `rows`)."""
        self.table.update(self._moments[frames], gradient[:, :self.columns.width])
        if self.camera_table is not None:
            self.camera_table.update(self._views[frames], gradient[:, self.columns.width:])

    @torch.no_grad()
    def calibrate(self) -> None:
        """Predict the corrections of all moments that are not learnt, from their tracking and from those that are.

        Changes nothing for training. Without --refine_calibrate they keep the tracker's values.
        """
        if self.table.learnt is None or not self.settings.refine_calibrate:
            return
        learnt, clip = self.table.learnt[:, 0].cpu() > 0, self.world.clip
        reference = self._reference.cpu()
        known, metres = reference[learnt], (self.values * self.reach).double().cpu()[learnt]
        self.calibration = learn_calibration(clip.codes.at(known), clip.R[known], clip.t[known], metres, self.columns,
                                             self.reach.cpu(), self.center.cpu(), clip.recording.main_camera)
        rows = torch.zeros_like(self.values)
        if self.calibration is not None:
            rows[:] = self.calibration.corrections(clip.codes.at(reference), clip.R[reference], clip.t[reference])
        self.values.copy_(torch.where(self.table.learnt > 0, self.values, rows))

    @torch.no_grad()
    def codes(self, frames: Tensor) -> Tensor:
        """The corrected codes [B,K] of frames [B] (int64 on the device of the corrections)."""
        change: Tensor = self.columns.parts(self.values[self._moments[frames]])[2].expression
        return self.world.rig.beta[frames] + change

    @torch.no_grad()
    def corrected_world(self) -> World:
        """The world with the corrections in its rig, cameras and clip, as if the tracker had given them.

        The clip has the calibration that `calibrate` found, too.
        """
        frames = torch.arange(len(self._moments), device=self._moments.device)
        cameras, change = self._corrected(self.world.cameras, frames, self.rows(frames))
        clip = replace(corrected_clip(self.world.clip, cameras, change), calibration=self.calibration)
        return replace(self.world, cameras=cameras, clip=clip, rig=self.world.rig.with_codes(clip.codes))

    def _tables(self) -> dict[str, CorrectionTable]:
        return {"": self.table} | ({"camera_": self.camera_table} if self.camera_table is not None else {})

    def state_dict(self) -> dict[str, Tensor]:
        """Corrections and the state of their Adam, not copies."""
        return {name: value for prefix, table in self._tables().items()
                for name, value in table.state_dict(prefix).items()}

    def load_values(self, state: dict[str, Tensor]) -> None:
        """Take over the corrections of `state_dict` alone. ValueError when they are not for this world."""
        for prefix, table in self._tables().items():
            table.load_values(state[f"{prefix}values"])

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave. ValueError naming the entry that is missing or does not fit."""
        for prefix, table in self._tables().items():
            table.load_state_dict(state, prefix)


def refinement_of_run(world: World, settings: TrainSettings) -> Refinement | None:
    """The corrections that a run learns; None where it leaves the tracking as it is."""
    refine, optimization = settings.refinement, settings.optimization
    if not refine.refine_tracking:
        return None
    start = round(refine.refine_from_iter * optimization.scale)
    updates = optimization.iterations - start
    if updates <= 0:
        log.warning("--refine_from_iter: %d stands for iteration %d here, not before the last one (%d): the tracking "
                    "stays as it is", refine.refine_from_iter, start, optimization.iterations)
    frames = torch.from_numpy(world.dataset.train_indices)
    moments = len(np.unique(world.clip.recording.time[frames.numpy()]))
    visits = max(updates, 1) * optimization.batch_size / moments
    return Refinement(world, refine, visits, frames, start=start)


def corrected(world: World, checkpoint: Checkpoint, settings: RefinementSettings) -> World:
    """`world` with the corrections that a run with --refine_tracking had reached at a checkpoint.

    CheckpointError when it holds none; it must have been read with its training part.
    """
    learnt = Refinement(world, settings, 1, None)
    saved = {name: checkpoint.training.get(f"refinement.{name}") for name in learnt.state_dict()}
    known = {name: value for name, value in saved.items() if value is not None}
    if known.keys() != saved.keys():
        raise CheckpointError(f"checkpoint of iteration {checkpoint.iteration}: wanted the corrections of a run with "
                              "--refine_tracking in its training.safetensors, found none")
    learnt.load_values(known)
    return learnt.corrected_world()
