"""`open_player` opens a run's folder; a `Player` draws its avatar with any codes from any camera.

Needs clip.safetensors and one checkpoint; the data set may be gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from blendshape_ops import Posed
from torch import Tensor

from arguments import DataSettings, TrainSettings, load_config
from flame import Head
from gaussian_renderer import Cameras, RenderOutput, render
from player.reference_model import load_reference_model, reference_iterations, reference_rig
from scene.avatar import Avatar
from scene.checkpoint import Checkpoint, CheckpointError, check_fits, newest_checkpoint
from scene.clip import CLIP_FILE, Clip, clip_of, head_of, load_clip, swayed_clip
from scene.data import choose_head, open_data, open_dataset
from scene.rig import Codes, Rig
from scene.run_folder import STATE_FILE

Frames: TypeAlias = int | slice | Sequence[int] | Tensor
_IDENTITY_6D = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class Player:
    """One avatar on one device, with the codes and cameras of the clip it was trained on.

    `codes.shape` is never looked at: the identity is the avatar's. Codes may lie on any device, cameras and
    backgrounds on the player's. B frames a call; nothing is differentiable.
    """

    def __init__(self, head: Head, avatar: Avatar, clip: Clip, sh_degree: int, num_expressions: int,
                 device: torch.device, name: str) -> None:
        """avatar: moved to `device`. num_expressions: those of the head that move Gaussians (the first)."""
        self.head, self.clip, self.sh_degree, self.device, self.name = head, clip, sh_degree, device, name
        self.avatar = avatar.to(device)
        self.rig = Rig(head, self.neutral_codes().to("cpu"), num_expressions, device)

    @property
    def num_expressions(self) -> int:
        """K: the first K expressions of the head move Gaussians."""
        return self.rig.num_expressions

    @property
    def expression_names(self) -> tuple[str, ...]:
        """Names of the head's E expressions."""
        return self.head.expression_names

    def neutral_codes(self, count: int = 1) -> Codes:
        """The head at rest, `count` times, on the device."""
        rest = torch.tensor(_IDENTITY_6D).repeat(count, 2)
        codes = Codes(shape=self.clip.codes.shape, expression=torch.zeros(count, self.head.n_expression),
                      jaw=rest[:, :6].clone(), eyes=rest, eyelids=torch.zeros(count, 2), neck=rest[:, :6].clone())
        return codes.to(self.device)

    def codes_of(self, frames: Frames) -> Codes:
        """Codes of frames of the clip, on the device. ValueError names a frame that is not there."""
        return self.clip.codes.at(self._index(frames)).to(self.device)

    def cameras_of(self, frames: Frames, width: int | None = None, height: int | None = None) -> Cameras:
        """Cameras of frames of the clip, on the device; for pictures of another size where given.

        One of width and height alone keeps the clip's proportions; both stretch the picture to fill them.
        """
        index, clip = self._index(frames), self.clip
        if width is None:
            width = clip.width if height is None else max(1, round(clip.width * height / clip.height))
        if height is None:
            height = max(1, round(clip.height * width / clip.width))
        # Pixel i's centre lies at i + 0.5, so the rows of K scale with the axes, exactly.
        scale = torch.tensor([width / clip.width, height / clip.height, 1.0])
        R, t, K = (part[index].to(self.device) for part in (clip.R, clip.t, clip.K * scale[:, None]))
        return Cameras(R, t, K, width, height)

    @torch.no_grad()
    def pose(self, codes: Codes, centers: Tensor) -> Posed:
        """Gaussians [B,N,...] of codes, seen from `centers` [B,3] (metres). ValueError where shapes do not fit."""
        rig = self.rig.with_codes(codes)
        if centers.shape != (len(codes), 3):
            raise ValueError(f"centers: wanted [{len(codes)}, 3] as there are codes, got {list(centers.shape)}")
        return self.avatar.pose(rig.drive(torch.arange(len(codes), device=self.device), centers), self.sh_degree)

    @torch.no_grad()
    def render(self, codes: Codes, cameras: Cameras, background: Tensor | None = None) -> RenderOutput:
        """Pictures of B frames over `background` (None: black, [3], [B,3] or [B,3,H,W])."""
        return render(self.pose(codes, cameras.centers), cameras, background)

    @torch.no_grad()
    def vertices(self, codes: Codes) -> Tensor:
        """The posed head mesh [B,V,3], on the device."""
        return self.rig.with_codes(codes).posed.vertices.to(self.device)

    def _index(self, frames: Frames) -> Tensor:
        if isinstance(frames, slice):
            return torch.arange(len(self.clip))[frames]
        index = torch.as_tensor(frames, dtype=torch.int64, device="cpu").reshape(-1)
        wrong = index[(index < 0) | (index >= len(self.clip))]
        if len(wrong):
            raise ValueError(f"frames: wanted 0 to {len(self.clip) - 1}, got {int(wrong[0])}")
        return index


@dataclass(frozen=True)
class _Subject:
    clip: Clip
    head: Head


def open_player(model_path: Path, device: torch.device, iteration: int = -1,
                source_path: Path | None = None) -> Player:
    """Open the avatar of a run's output folder; `iteration` chooses a checkpoint (-1: the newest).

    A run without clip.safetensors is read together with the data set that its config.json names; a folder of the
    reference's checkpoint files, with the data set that its cfg_args or `source_path` names. Raises
    ValueError, FileNotFoundError and CheckpointError naming what is missing or damaged.
    """
    if not model_path.is_dir():
        raise ValueError(f"{model_path}: no such folder; wanted the output folder of a training run")
    if reference_iterations(model_path):
        return _open_reference(model_path, device, iteration, source_path)
    if (model_path / CLIP_FILE).is_file():  # then config.json, which other versions write otherwise, is not needed
        clip = load_clip(model_path)
        subject = _Subject(clip, head_of(clip))
    else:
        subject = _from_data(load_config(TrainSettings, model_path).data, model_path)
    return _assemble(subject, newest_checkpoint(model_path, iteration, with_training=False), device, model_path)


def _open_reference(model_path: Path, device: torch.device, iteration: int, source_path: Path | None) -> Player:
    model = load_reference_model(model_path, iteration, source_path)
    try:
        source = open_data(model.data)
        head = choose_head(model.data.head, source)
        clip = clip_of(model.data, source, head, open_dataset(model.data, source))
    except (ValueError, OSError) as error:
        raise ValueError(f"{model_path}: codes and cameras of a model of the reference are in its data set, which does "
                         f"not open: {error}. --source_path, or source_path in cfg_args, says where it is") from error
    # The model stores what expressions do; the mesh need not be asked, hence 0.
    player = Player(head, model.avatar, clip, model.sh_degree, 0, device, model_path.resolve().name)
    player.rig = reference_rig(player.rig, model)
    return player


def _from_data(data: DataSettings, model_path: Path) -> _Subject:
    # Nobody asks for pictures, and streaming decodes none.
    data = replace(data, cache="stream")
    try:
        source = open_data(data)
        head = choose_head(data.head, source)
        return _Subject(clip_of(data, source, head, open_dataset(data, source)), head)
    except (ValueError, OSError) as error:
        raise ValueError(f"{model_path / CLIP_FILE}: missing (a run from before it was kept), and the data set that "
                         f"could replace it does not open: {error}") from error


def _assemble(subject: _Subject, checkpoint: Checkpoint, device: torch.device, model_path: Path) -> Player:
    head, where = subject.head, f"{model_path}: checkpoint of iteration {checkpoint.iteration}"
    made_with = checkpoint.state.get("head")
    if made_with != head.name:
        raise CheckpointError(f"{where}: {STATE_FILE}: made with head {str(made_with)[:60]!r}, but {CLIP_FILE} is of "
                              f"{head.name!r}")
    degree, expressions = check_fits(checkpoint, head, where)
    codes = subject.clip.codes
    for name, got, size in (("shape", codes.shape.shape[0], head.n_shape),
                            ("expression", codes.expression.shape[1], head.n_expression)):
        if got != size:
            raise ValueError(f"{model_path / CLIP_FILE}: codes.{name}: wanted {size} numbers for {head.name}, "
                             f"got {got}")
    calibration = subject.clip.calibration
    if calibration is not None and calibration.expressions != expressions:
        raise ValueError(f"{model_path / CLIP_FILE}: calibration.weights: wanted {expressions} expressions as the "
                         f"avatar has, got {calibration.expressions}")
    clip, sway = subject.clip, checkpoint.avatar.sway
    if sway is not None and codes.sway is None:
        clip = swayed_clip(clip, sway)
    return Player(head, checkpoint.avatar, clip, degree, expressions, device, model_path.resolve().name)
