"""A data set that is right: the open head, shaded and cut out by its own outline, written in a second or two."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch

from arguments import DataSettings
from flame import load_head
from flame.pose import pose_head
from scene.clip import clip_of
from scene.data import open_data, open_dataset
from scene.inspection import Subject
from tests.tracker_folder import record, write_png, write_record
from utils.mesh_raster import project, rasterize_mesh

DISTANCE = 0.6  # metres
open_head = cache(lambda: load_head("open"))


def write_tracked_head(folder: Path, frames: int, size: int = 64) -> Path:
    """`frames` pictures of size x size pixels in the default layout; the head turns, talks and never repeats."""
    head = open_head()
    generator = np.random.default_rng(0)
    texture = generator.integers(60, 230, (len(head.faces), 3))
    for index in range(frames):
        content = record(index, size, size)
        angle = 0.2 * np.sin(0.37 * index)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        content["opencv"]["R"] = (np.diag([1.0, -1, -1]) @ turn)[None].astype(np.float32)
        content["opencv"]["t"] = np.array([[0, 0.0, DISTANCE]], np.float32)
        content["flame"]["shape"] = np.zeros((1, 300), np.float32)
        expression = np.zeros((1, 100), np.float32)
        expression[0, :8] = 0.5 + 0.5 * np.sin(np.arange(8) + 0.61 * index)
        content["flame"]["exp"] = expression
        write_record(folder, index, content)
        posed = pose_head(head, torch.zeros(head.n_shape), torch.from_numpy(expression[:, :head.n_expression]),
                          *(torch.from_numpy(content["flame"][name]) for name in ("jaw", "eyes", "eyelids")))
        camera = (content["opencv"][name][0] for name in ("R", "t", "K"))
        buffers = rasterize_mesh(*project(posed.vertices[0].numpy(), *camera), head.faces.numpy(), size, size)
        rgba = np.zeros((size, size, 4), np.uint8)
        rgba[..., :3] = texture[buffers.triangle]
        hair = cv2.dilate((buffers.triangle >= 0).astype(np.uint8), np.ones((5, 5), np.uint8))
        rgba[..., 3] = 255 * hair
        write_png(folder / "images" / f"{index:05d}.png", rgba)
    (folder / "head.json").write_text('{"head": "open"}')
    return folder


def subject_of(folder: Path, **settings: object) -> Subject:
    """The folder as the checks see it. settings: of `DataSettings`."""
    data = DataSettings(folder, **settings)  # type: ignore[arg-type]
    source, head = open_data(data), open_head()
    dataset = open_dataset(data, source)
    codes = clip_of(data, source, head, dataset).codes
    posed = pose_head(head, codes.shape, codes.expression, codes.jaw, codes.eyes, codes.eyelids)
    return Subject(dataset, head, posed, codes, dataset.background is not None)
