"""What a run works on: data set, head model, rig and mouth, from the settings alone; shared by all entry points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from arguments import DataSettings, ModelSettings
from flame import Head, check_head_matches, load_head
from flame.codes import fit_code
from gaussian_renderer import Cameras
from scene.dataset import Dataset
from scene.mouth import Mouth, create_mouth
from scene.readers import Source, open_source
from scene.rig import Codes, Rig
from scene.split import Split


@dataclass(frozen=True)
class World:
    """Data set, head, rig and mouth, with the cameras of all frames on the device.

    background: None (black), a colour [3], or a picture [3,H,W] over which whole-image targets are drawn.
    """

    dataset: Dataset
    head: Head
    rig: Rig
    mouth: Mouth
    cameras: Cameras
    background: Tensor | None
    whole: bool

    @property
    def flat_background(self) -> Tensor | None:
        """The background colour [3] over which targets are composited, or None (black, or whole-image targets)."""
        return self.background if self.background is not None and self.background.ndim == 1 else None

    def cameras_of(self, frames: Tensor) -> Cameras:
        """The cameras of frames [B] (int64 on the cameras' device)."""
        c = self.cameras
        return Cameras(c.R[frames], c.t[frames], c.K[frames], c.width, c.height)


def resolve_device(name: str) -> torch.device:
    """auto, cpu, cuda or cuda:N -> device. ValueError when CUDA is asked for and not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device: wanted auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: cuda was asked for, but torch finds no usable NVIDIA GPU; use --device cpu")
    return device


def choose_head(name: str, source: Source) -> Head:
    """The head model the data was tracked with (`name` auto: as the data says, else FLAME).

    ValueError when its mesh does not fit the data's.
    """
    head = load_head((source.head or "flame") if name == "auto" else name)
    if source.mesh is not None:
        check_head_matches(head, source.mesh.vertices, source.mesh.triangles, "canonical.obj of the data set")
    return head


def clip_codes(head: Head, dataset: Dataset, where: str) -> Codes:
    """Codes of all frames, cut or padded to the head; the identity of the first frame serves the whole clip."""

    def fitted(codes: Tensor, length: int, name: str) -> Tensor:
        return torch.from_numpy(fit_code(codes.numpy(), length, name, where))

    return Codes(shape=fitted(dataset.shape[0], head.n_shape, "shape"),
                 expression=fitted(dataset.expression, head.n_expression, "expression"),
                 jaw=dataset.jaw, eyes=dataset.eyes, eyelids=dataset.eyelids)


def open_world(data: DataSettings, model: ModelSettings, seed: int, device: torch.device) -> World:
    """Read the data set and prepare everything that does not learn. Errors name the file or flag."""
    if data.use_nerfBS and data.use_HR:
        raise ValueError("--use_nerfBS and --use_HR: a data set is one or the other, choose one")
    source = open_source(data.source_path, "nerfbs" if data.use_nerfBS else "hr" if data.use_HR else "insta")
    head = choose_head(data.head, source)
    split = Split(data.split, None if data.test_frames < 0 else data.test_frames, blocks=data.test_blocks)
    dataset = Dataset(source, split, data.resolution, data.cache)
    rig = Rig(head, clip_codes(head, dataset, str(data.source_path)), model.num_expressions, device)
    offset = np.zeros(3) if source.teeth_offset is None else np.asarray(source.teeth_offset, dtype=np.float64)
    mouth = create_mouth(head, rig.posed.neutral, model.num_teeth_gaussians, offset, seed)
    cylinder = replace(mouth.cylinder, center=mouth.cylinder.center.to(device))
    cameras = Cameras(dataset.R.to(device), dataset.t.to(device), dataset.K.to(device), dataset.width, dataset.height)
    background = torch.ones(3, device=device) if data.white_background else None
    if dataset.background is not None:
        background = dataset.background.to(device).permute(2, 0, 1).float() / 255
    return World(dataset, head, rig, replace(mouth, cylinder=cylinder), cameras, background, whole=data.use_nerfBS)
