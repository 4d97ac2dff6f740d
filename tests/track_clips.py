"""Clips with known truth for the tests of fitting: the open head in natural motion, its landmarks and its pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from data.demo.motion import make_motion
from flame import Head, pose_head
from flame.rotations import matrix_from_axis_angle, matrix_to_6d
from tracking.landmark_embedding import landmark_embedding
from tracking.records import BLENDSHAPE_NAMES, LANDMARKS, Fit, Observations
from tracking.surface import gaze_rotation
from utils.mesh_raster import project, rasterize_mesh


@dataclass(frozen=True)
class Truth:
    """vertices [T,V,3] in head space, beside the record."""

    fit: Fit
    vertices: np.ndarray


def make_truth(head: Head, frames: int, size: int, focal: float = 1.8, seed: int = 0) -> Truth:
    """focal: in crop sides."""
    rng = np.random.default_rng(seed)
    motion = make_motion(frames, head.expression_names, rng)
    expression = torch.from_numpy(motion.expression).float()
    shape = torch.from_numpy(rng.normal(scale=0.7, size=head.n_shape)).float()
    jaw = matrix_to_6d(matrix_from_axis_angle(expression @ head.expression_jaw))
    eye = matrix_to_6d(gaze_rotation(torch.from_numpy(motion.gaze).float())[0])
    eyes, lids = torch.cat([eye, eye], 1), torch.zeros(frames, 2)
    vertices = pose_head(head, shape, expression, jaw, eyes, lids).vertices
    K = np.array([[focal * size, 0, size / 2], [0, focal * size, size / 2], [0, 0, 1]], np.float32)
    fit = Fit(shape.numpy(), expression.numpy(), jaw.numpy(), eyes.numpy(), lids.numpy(),
              motion.R.astype(np.float32), motion.t.astype(np.float32), K, np.zeros(frames, np.float32))
    return Truth(fit, vertices.numpy())


def observe(head: Head, truth: Truth, size: int, noise: float, score_noise: float = 0.0, seed: int = 1) -> Observations:
    """The truth's landmarks with normal noise (pixels, per axis); missing ones are NaN. Scores are its expressions."""
    rng = np.random.default_rng(seed)
    found, frames = landmark_embedding(head), len(truth.fit)
    corners = truth.vertices[:, head.faces.numpy()[found.triangle]]
    points = np.einsum("lc,tlcd->tld", found.barycentric, corners)
    landmarks = np.full((frames, LANDMARKS, 2), np.nan, np.float32)
    for index in range(frames):
        landmarks[index, found.index] = project(points[index], truth.fit.R[index], truth.fit.t[index], truth.fit.K)[0]
    landmarks += rng.normal(scale=noise, size=landmarks.shape)
    scores = np.zeros((frames, len(BLENDSHAPE_NAMES)), np.float32)
    for column, name in enumerate(head.expression_names):
        if name in BLENDSHAPE_NAMES:
            scores[:, BLENDSHAPE_NAMES.index(name)] = truth.fit.expression[:, column]
    scores = np.clip(scores + rng.normal(scale=score_noise, size=scores.shape), 0, 1).astype(np.float32)
    return Observations(landmarks, np.zeros((frames, LANDMARKS), np.float32), scores,
                        np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1)), size, np.arange(frames))


def picture(head: Head, truth: Truth, index: int, size: int, seed: int = 2) -> np.ndarray:
    """Frame `index` of the truth as uint8 [size,size,3]: skin with spots a few millimetres wide, smooth shade."""
    rng = np.random.default_rng(seed)
    faces = head.faces.numpy()
    rest = head.v_template.numpy()
    waves = rng.normal(scale=600, size=(3, 12))  # radians per metre: spots of about 5 mm
    colour = 128 + 25 * np.sin(rest @ waves + rng.uniform(0, 6, 12)).sum(1) / 2
    fit = truth.fit
    pixels, depth = project(truth.vertices[index], fit.R[index], fit.t[index], fit.K)
    buffers = rasterize_mesh(pixels, depth, faces, size, size)
    grey = (colour[faces[buffers.triangle]] * buffers.barycentric).sum(-1)
    grey = np.where(buffers.triangle < 0, 90, grey) + 10 * np.linspace(-1, 1, size)
    return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, -1)
