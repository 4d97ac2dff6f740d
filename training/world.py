"""What a run works on: data set, head model, rig and mouth, from the settings alone; shared by all entry points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arguments import DataSettings, ModelSettings
from flame import Head
from gaussian_renderer import Cameras, render
from scene.avatar import Avatar
from scene.clip import Clip, clip_of, swayed_clip
from scene.data import choose_head, open_data, open_dataset
from scene.dataset import Dataset
from scene.mouth import Mouth, create_mouth
from scene.rig import Rig
from scene.sway import Sway
from utils.images import Size


@dataclass(frozen=True)
class World:
    """Data set, what a run keeps of it, head, rig and mouth, with the cameras of all frames on the device.

    Where the pictures differ in size, `cameras` says each one's K, but its width and height are no frame's.
    background: None (black), a colour [3], or a picture [3,H,W] over which whole-image targets are drawn.
    """

    dataset: Dataset
    clip: Clip
    head: Head
    rig: Rig
    mouth: Mouth
    cameras: Cameras
    background: Tensor | None
    whole: bool

    @property
    def several_cameras(self) -> bool:
        """Whether more than one camera trains."""
        return len(set(self.clip.recording.view[self.dataset.train_indices].tolist())) > 1

    @property
    def flat_background(self) -> Tensor | None:
        """The background colour [3] over which targets are composited, or None (black, or whole-image targets)."""
        return self.background if self.background is not None and self.background.ndim == 1 else None

    def background_of(self, count: int) -> Tensor | None:
        """What the rasterizer draws `count` frames over: None, [3], or the picture for each frame [count,3,H,W]."""
        if self.background is None or self.background.ndim == 1:
            return self.background
        return self.background.expand(count, -1, -1, -1)

    def cameras_of(self, frames: Tensor, size: Size | None = None) -> Cameras:
        """The cameras of frames [B] (int64 on the cameras' device), whose pictures have one size.

        size: that size, width and height; None: looked up, which waits for the device where sizes differ.
        """
        c = self.cameras
        if size is None and len(self.dataset.sizes) > 1:
            size, *others = {self.dataset.size(index) for index in frames.tolist()}
            if others:
                raise ValueError(f"frames: wanted pictures of one size in a batch, got {size} and {others[0]}")
        width, height = size or (c.width, c.height)
        return Cameras(c.R[frames], c.t[frames], c.K[frames], width, height)

    def swayed(self, sway: Sway | None) -> World:
        """The same with the codes that tell `sway` how each moment's head is posed, as the tracker has it."""
        if sway is None:
            return self
        clip = swayed_clip(self.clip, sway)
        return replace(self, clip=clip, rig=self.rig.with_codes(clip.codes))

    def untrained_sway(self) -> Sway:
        """What moves otherwise than the head model: the poses of the training moments, nothing learnt (CPU)."""
        recording = self.clip.recording
        moments = np.unique(recording.time[self.dataset.train_indices])
        pictures = torch.from_numpy(recording.reference[moments])
        expressions = self.head.expression_dirs[:, :, :self.rig.num_expressions]
        return Sway.at_rest(self.rig.posed.neutral, expressions, self.clip.R[pictures], self.clip.t[pictures])

    def to(self, device: torch.device) -> World:
        """The same world for training on another device."""
        cylinder = self.mouth.cylinder
        return replace(
            self, rig=Rig(self.head, self.clip.codes, self.rig.num_expressions, device),
            mouth=replace(self.mouth, cylinder=replace(cylinder, center=cylinder.center.to(device))),
            cameras=self.cameras.to(device),
            background=None if self.background is None else self.background.to(device))

    def mesh_in_data(self, frame: int) -> NDArray[np.float64]:
        """The posed head mesh [V,3] of a frame, metres, lying where the data set's camera sees it as `cameras` does.

        The two cameras differ where the tracking was corrected.
        """
        R, t = (values[frame].cpu().double().numpy() for values in (self.cameras.R, self.cameras.t))
        seen = self.rig.posed.vertices_at(slice(frame, frame + 1))[0].double().numpy() @ R.T + t
        tracked = self.dataset.camera(frame)
        return (seen - tracked.t) @ tracked.R


@torch.no_grad()
def render_on_black(world: World, avatar: Avatar, sh_degree: int, frames: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Frames of the data set, of one size, drawn on black: image [B,3,H,W], alpha [B,H,W]."""
    index = torch.tensor(list(frames), device=avatar.neutral.device)
    cameras = world.cameras_of(index)
    output = render(avatar.pose(world.rig.drive(index, cameras.centers), sh_degree), cameras)
    return output.image, output.alpha


def open_world(
    data: DataSettings, model: ModelSettings, seed: int, device: torch.device, progress: bool = True
) -> World:
    """Read the data set and prepare everything that does not learn. Errors name the file or flag.

    progress: show a bar while pictures are read.
    """
    source = open_data(data)
    head = choose_head(data.head, source)
    dataset = open_dataset(data, source, progress)
    clip = clip_of(data, source, head, dataset)
    rig = Rig(head, clip.codes, model.num_expressions, device)
    offset = np.zeros(3) if source.teeth_offset is None else np.asarray(source.teeth_offset, dtype=np.float64)
    mouth = create_mouth(head, rig.posed.neutral, model.num_teeth_gaussians, offset, seed)
    cylinder = replace(mouth.cylinder, center=mouth.cylinder.center.to(device))
    cameras = Cameras(dataset.R.to(device), dataset.t.to(device), dataset.K.to(device), dataset.width, dataset.height)
    background = torch.ones(3, device=device) if data.white_background else None
    if dataset.background is not None:
        background = dataset.background.to(device).permute(2, 0, 1).float() / 255
    return World(dataset, clip, head, rig, replace(mouth, cylinder=cylinder), cameras, background,
                 whole=dataset.background is not None)
