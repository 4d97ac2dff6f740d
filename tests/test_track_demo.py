"""Tracking against the truth: the demo subject rendered to a plain video, seen by the real detector, fitted, compared.

The limits are 1.3 to 2 times what was measured (in the comments), so that a step back shows and noise does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from data.demo import layout
from data.demo.generate import Settings, plan
from data.demo.motion import FOCAL
from data.demo.render import render
from data.demo.subject import Codes, posed_vertices
from flame import Head
from flame.load import OPEN_HEAD
from tests.track_videos import FACE_MODEL, write_clip
from tracking.crop import Crop, choose_crop, observe
from tracking.detection import one_by_one
from tracking.detector import MediaPipeDetector
from tracking.footage import ByteImage, Listed, Span
from tracking.landmark_fit import fit_clip
from tracking.landmarks import follow_face, look_for_faces
from tracking.mesh_view import MeshView
from tracking.photometric_fit import refine_clip
from tracking.records import Fit, Observations
from tracking.video import open_footage
from utils.mesh_raster import project

FRAMES, STRIDE, SIZE = 16, 7, 256  # 16 pictures from 4.5 seconds: motion and expressions in little time

pytestmark = pytest.mark.skipif(not FACE_MODEL.is_file(), reason="the face model is not beside the project")


@dataclass(frozen=True, eq=False)
class Truth:
    """The subject in the kept pictures: vertices [T,V,3], R, t, codes, in the axes of the head."""

    head: Head
    vertices: np.ndarray
    R: np.ndarray
    t: np.ndarray
    codes: Codes


@dataclass(frozen=True, eq=False)
class Tracked:
    truth: Truth
    crop: Crop
    observations: Observations
    pictures: list[ByteImage]
    fit: Fit


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    pytest.importorskip("mediapipe")
    video = tmp_path_factory.mktemp("demo") / "demo.mp4"
    truth = _film(video)
    footage = open_footage(video)
    with MediaPipeDetector(FACE_MODEL) as detector:
        track = follow_face(look_for_faces(one_by_one(footage.pictures(Span()), detector, lambda: None)), 0, [], [])
    assert len(track) == FRAMES, "the detector sees the subject in every picture"
    crop = choose_crop(track, SIZE)
    pictures = [crop.cut(p.rgb) for p in footage.pictures(Listed(frozenset(track.index.tolist())))]
    observations = observe(track, crop)
    return Tracked(truth, crop, observations, pictures, fit_clip(truth.head, observations))


def _film(path: Path) -> Truth:
    head, subject, motion, codes = plan(Settings(frames=FRAMES * STRIDE, size=SIZE))
    chosen = np.arange(FRAMES) * STRIDE
    kept = Codes(codes.shape, *(getattr(codes, n)[chosen] for n in ("expression", "jaw", "eyes", "eyelids")))
    vertices = posed_vertices(head, kept)
    background = layout.make_background(SIZE, 0)
    images = []
    for posed, index in zip(vertices, chosen, strict=True):
        rgba = render(subject, posed, motion.expression[index], motion.R[index], motion.t[index], motion.turn[index],
                      SIZE)
        alpha = rgba[..., 3:] / 255
        images.append(np.rint(rgba[..., :3] * alpha + background * (1 - alpha)).astype(np.uint8))
    write_clip(path, images)
    return Truth(head, vertices, motion.R[chosen], motion.t[chosen], kept)


def landmarks_of(vertices: np.ndarray) -> np.ndarray:
    """MediaPipe's landmarks on the open head [T,478,3]."""
    with np.load(OPEN_HEAD) as file:
        return (vertices[:, file["mp478_vertices"]] * file["mp478_bary"][..., None]).sum(axis=2)


def true_camera(tracked: Tracked) -> np.ndarray:
    """K of the crop."""
    scale, focal = tracked.crop.scale, FOCAL * SIZE
    centre = (SIZE / 2 - np.array([tracked.crop.left, tracked.crop.top])) * scale
    return np.array([[focal * scale, 0, centre[0]], [0, focal * scale, centre[1]], [0, 0, 1]])


@dataclass(frozen=True)
class Errors:
    """pixels: RMS distance of landmarks of the fitted and the true mesh, in the picture. rotation: degrees RMS, without
    the constant difference. focal: share. depth: RMS share of the distance in units of focal length, without the
    constant factor. expression: mean absolute difference of codes. correlation: of the codes that move, over time.
    """

    pixels: float
    rotation: float
    focal: float
    depth: float
    expression: float
    correlation: float


def errors_of(tracked: Tracked, fit: Fit) -> Errors:
    truth = tracked.truth
    view = MeshView(truth.head, fit, SIZE)
    K = true_camera(tracked)
    distances = []
    for i in range(FRAMES):
        ours, _ = view.pixels(landmarks_of(view.vertices(i)[None])[0], i)
        true, _ = project(landmarks_of(truth.vertices[i:i + 1])[0], truth.R[i], truth.t[i], K)
        distances.append(np.linalg.norm(ours - true, axis=1))
    relative = truth.R.transpose(0, 2, 1) @ fit.R  # constant where only the head's own axes differ
    u, _, vt = np.linalg.svd(relative.mean(axis=0))
    rest = (u @ vt).T @ relative
    angle = np.degrees(np.arccos(np.clip((np.trace(rest, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    size = np.log((fit.t[:, 2] / fit.K[0, 0]) / (truth.t[:, 2] / K[0, 0]))
    ours, true = whole_expression(truth.head, fit), whole_expression(truth.head, truth.codes)
    moving = true.std(axis=0) > 0.08
    correlation = [np.corrcoef(ours[:, k], true[:, k])[0, 1] for k in np.flatnonzero(moving & (ours.std(axis=0) > 0))]
    return Errors(
        float(np.sqrt(np.mean(np.square(distances)))), float(np.sqrt(np.mean(angle**2))),
        abs(float(fit.K[0, 0] / K[0, 0]) - 1), float(size.std()), float(np.abs(ours - true).mean()),
        float(np.mean(correlation)),
    )


def whole_expression(head: Head, codes: Fit | Codes) -> np.ndarray:
    """Expression codes [T,E] with the eyelids' part of a blink put back."""
    expression, lids = (torch.as_tensor(value).numpy().copy() for value in (codes.expression, codes.eyelids))
    for side, name in enumerate(("eyeBlinkLeft", "eyeBlinkRight")):
        expression[:, head.expression_names.index(name)] += lids[:, side]
    return expression


def test_fit_on_landmarks_is_near_the_truth(tracked: Tracked) -> None:
    errors = errors_of(tracked, tracked.fit)
    assert errors.pixels < 2.6          # measured 2.0 of 256 pixels; the detector's own idea of the mesh is in it
    # Measured 5.5 degrees. The subject smiles a little in every picture: what never changes, a fit takes for identity.
    assert errors.rotation < 7.5
    assert errors.depth < 0.010         # measured 0.0068
    assert errors.expression < 0.125    # measured 0.096
    assert errors.correlation > 0.38    # measured 0.48
    # Measured 2.37: perspective tells little of the focal length in so few pictures, and the detector flattens it.
    assert errors.focal < 3.2
    assert np.median(tracked.fit.landmark_error) < 1.5  # pixels; what the user is told is of the same order


def test_refinement_comes_nearer(tracked: Tracked) -> None:
    refined = refine_clip(tracked.truth.head, tracked.fit, tracked.observations, tracked.pictures.__getitem__)
    before, after = errors_of(tracked, tracked.fit), errors_of(tracked, refined)
    assert after.pixels < 0.97 * before.pixels      # measured 0.938 to 0.946
    assert after.rotation < 0.98 * before.rotation  # measured 0.954
    # Measured 1.01 to 1.03 with the instruction sets of several processors: a coarse film tells little of depth.
    assert after.depth < 1.06 * before.depth
    assert after.expression < 1.04 * before.expression  # measured 1.009
    assert after.correlation > before.correlation   # measured 0.49 after 0.40
