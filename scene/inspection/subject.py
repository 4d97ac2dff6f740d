"""What the checks look at: a data set with its posed head, and a few frames of it drawn."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flame import Head
from flame.pose import PosedHead
from scene.dataset import Dataset
from scene.picture_facts import HALF, PictureFacts
from scene.rig import Codes
from utils.mesh_raster import project, rasterize_mesh

SAMPLES, SAMPLES_A_CAMERA = 12, 2  # frames whose mesh is drawn
RASTER = 128  # pixels: longer side of the raster on which mesh and mask are compared
HEAD_RADIUS = 0.1  # metres

Bits = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame drawn: outlines of projected mesh and mask on a small raster [h,w]."""

    frame: int
    mesh: Bits
    mask: Bits

    @property
    def cover(self) -> float:
        """Share of the mesh that lies inside the mask; 0 where no mesh is in the picture."""
        return float((self.mesh & self.mask).sum() / max(1, self.mesh.sum()))


class Subject:
    """A data set and its posed head (CPU), with what the checks derive from them.

    whole: the target is the whole photograph. frames: those whose pictures are known: all, or a sample when streaming.
    size [N,2]: width and height of each picture.
    """

    def __init__(self, dataset: Dataset, head: Head, posed: PosedHead, codes: Codes, whole: bool) -> None:
        self.dataset, self.head, self.posed, self.codes, self.whole = dataset, head, posed, codes, whole
        samples = max(SAMPLES, SAMPLES_A_CAMERA * len(dataset.recording.cameras))
        self.sample = np.unique(np.linspace(0, dataset.frame_count - 1, samples).round().astype(int)).tolist()
        self.size = np.array([dataset.size(frame) for frame in range(dataset.frame_count)])
        self.frames: list[int] = self.sample if dataset.images_by_size is None else list(range(dataset.frame_count))
        self.facts: list[PictureFacts] = dataset.facts(self.frames)
        R, t, K = (values.double() for values in (dataset.R, dataset.t, dataset.K))
        seen = R @ posed.neutral.double().mean(dim=0) + t
        self.depth = seen[:, 2].numpy()
        pixels = (K @ seen[..., None])[..., 0]
        self.center = (pixels[:, :2] / pixels[:, 2:]).numpy()
        self.radius = (K[:, 0, 0] * HEAD_RADIUS / seen[:, 2].abs().clamp_min(1e-9)).numpy()

    def name(self, frame: int) -> str:
        """A frame as messages call it, by the file of its mask."""
        record = self.dataset.frames[frame]
        camera = f"camera {record.view}, " if self.dataset.recording.several else ""
        return f"frame {frame} ({camera}{(record.mask_path or record.image_path).name})"

    @property
    def by_camera(self) -> list[NDArray[np.int64]]:
        """The frames of each camera, in order of time."""
        recording = self.dataset.recording
        return [recording.of_camera(number) for number in range(len(recording.cameras))]

    def names(self, frames: Sequence[int] | NDArray[np.int64]) -> str:
        """Several frames as messages call them: the first by its picture, the others by number."""
        more = ", ".join(str(int(frame)) for frame in frames[1:5]) + (", ..." if len(frames) > 5 else "")
        return self.name(int(frames[0])) + (f" and {len(frames) - 1} more ({more})" if more else "")

    @cached_property
    def drawn(self) -> list[Sample]:
        """The sampled frames, drawn."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self._draw, self.sample))

    def _draw(self, frame: int) -> Sample:
        data = self.dataset
        full_width, full_height = data.size(frame)
        scale = min(1.0, RASTER / max(full_width, full_height))
        width, height = max(1, round(full_width * scale)), max(1, round(full_height * scale))
        camera = data.camera(frame).resized(width, height)
        vertices = self.posed.vertices_at(slice(frame, frame + 1))[0].numpy()
        surface = self.head.regions.get("surface_faces")
        faces = self.head.faces.numpy() if surface is None else self.head.faces[surface].numpy()
        buffers = rasterize_mesh(*project(vertices, camera.R, camera.t, camera.K), faces, width, height)
        rows, columns = ((np.arange(n) + 0.5) / n * full for n, full in ((height, full_height), (width, full_width)))
        alpha = data.rgba(frame)[..., 3]
        return Sample(frame, buffers.triangle >= 0, alpha[rows.astype(int)[:, None], columns.astype(int)] > HALF)
