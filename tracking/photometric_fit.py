"""Sub-pixel refinement of a fitted clip against its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flame import Head, pose_head
from flame.rotations import matrix_to_6d
from tracking.bundle import DataTerm, Progress, State, minimise, parts
from tracking.landmark_fit import FitSettings, clip_of, fit_of, measured, single_rig, state_of
from tracking.photometric_term import Images, PhotometricTerm, band_pass, face_points
from tracking.records import Fit, Observations, Rig
from tracking.surface import turns_of
from tracking.visibility import in_front
from utils.mesh_raster import nearest_surface, project
from utils.parallel import in_order, ordered

DEPTH_SLACK = 0.004  # metres; what lies further behind the nearest surface is hidden
PASSES = 2           # of a camera's pictures in an iteration: two terms
RASTER = 256         # side of the depth pictures that decide it


@dataclass(frozen=True)
class RefineSettings:
    """blurs: of the pictures, coarse to fine, in 1/512 of the crop's side: the mesh must be within about twice the
    blur of its place, and the finer the blur the more exact the outcome. With each, of how many points one is looked
    at: what is blurred shows the same in neighbouring ones. bakes: how often at each blur the mean appearance is
    taken anew. iterations: after each, at most; tolerance: share of the cost, below which a step is the last one.
    points: of the skin, at most about; weight: of each where all are looked at; landmark_weight: what the landmarks
    keep, which say where features are but jitter. free_identity: solve for identity and focal length too. fit: priors,
    as in the fit.
    """

    blurs: tuple[tuple[float, int], ...] = ((3.0, 3), (1.5, 2), (0.8, 1))
    bakes: int = 2
    iterations: int = 8
    tolerance: float = 1e-4
    weight: float = 0.2
    landmark_weight: float = 0.05
    points: int = 1700
    free_identity: bool = True
    fit: FitSettings = FitSettings()  # noqa: RUF009 (frozen)


def refine_clip(
    head: Head,
    fit: Fit,
    observations: Observations,
    images: Images,
    settings: RefineSettings | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Align every frame of one camera with the clip's mean appearance; see `refine_views`."""
    return refine_views(head, fit, single_rig(fit.K), [observations], [images], settings, device, progress)[0]


def refine_views(
    head: Head,
    fit: Fit,
    rig: Rig,
    views: Sequence[Observations],
    images: Sequence[Images],
    settings: RefineSettings | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    free_rig: bool = False,
) -> tuple[Fit, Rig]:
    """Align every frame with the clip's mean appearance, so that each point of the mesh stays on its point of the skin.

    images[c](i): crop of frame i of camera c, uint8 RGB [S,S,3], asked for by several threads; each camera has an
    appearance of its own. free_rig: solve for where the cameras stand too. Pose and codes of all frames, identity
    and focal length are solved for, with the fit's priors, smoothness and landmarks. Dense image alignment (Lucas and
    Kanade 1981) by the solver that fits the landmarks. progress(done, total): called after every few pictures of every
    step, in pictures.
    """
    settings, device = settings or RefineSettings(), device or torch.device("cpu")
    clip = clip_of(head, views, settings.fit, device, None if free_rig else rig)
    state = state_of(head, fit, device, rig)
    clip.learn_offset(state)
    for landmarks in clip.landmarks:
        landmarks.weight *= settings.landmark_weight / settings.fit.landmark_weight
    _, corners = face_points(head, len(state.shape), settings.points, device)
    count = len(fit) * len(views)
    bake = PASSES * settings.iterations * count
    work = _Work(progress, count + len(settings.blurs) * (count + settings.bakes * bake))
    facing = [_facing(head, state, corners, view, term, work)
              for view, term in zip(views, clip.landmarks, strict=True)]
    held = clip.problem.held_shared if settings.free_identity else torch.full_like(clip.problem.held_shared, True)
    for blur, every in settings.blurs:
        points, _ = face_points(head, len(state.shape), settings.points, device, every)
        skins = [PhotometricTerm.empty(points, term.center, term.camera) for term in clip.landmarks]
        terms: list[DataTerm] = [*clip.landmarks, *skins]
        problem = replace(clip.problem, terms=terms, held_shared=held, passed=work.add)
        for term, view, pictures in zip(skins, views, images, strict=True):
            term.pictures = _band_passed(pictures, len(fit), blur * view.size / 512, work).to(corners.device)
        for _ in range(settings.bakes):
            for term, cosine in zip(skins, facing, strict=True):
                term.learn(state, cosine[:, ::every], every * settings.weight)
            with work.within(bake):
                state = minimise(problem, state, settings.iterations, settings.tolerance, None, settings.iterations)
    refined, rig = fit_of(head, state, views, settings.fit)
    return measured(head, refined, rig, views, device), rig


@dataclass
class _Work:
    """How much of the refinement is done, in pictures that went through one of its steps."""

    progress: Progress | None
    total: int
    done: int = 0
    limit: int | None = None

    def add(self, pictures: int) -> None:
        self.done += pictures if self.limit is None else min(pictures, self.limit - self.done)
        if self.progress is not None:
            self.progress(self.done, self.total)

    @contextmanager
    def within(self, planned: int) -> Iterator[None]:
        """What is done now counts as `planned` pictures, be it more or less."""
        self.limit = self.done + planned
        yield
        self.add(planned)
        self.limit = None


def _band_passed(images: Images, count: int, sigma: float, work: _Work) -> Tensor:
    """The brightness of all frames, float16 [T,1,S,S], in a band of spatial frequencies, see `band_pass`."""
    passed = []
    for picture in ordered(lambda index: band_pass(images(index), sigma), count):
        passed.append(picture)
        work.add(1)
    return torch.stack(passed)[:, None]


def _facing(
    head: Head, state: State, corners: Tensor, view: Observations, term: DataTerm, work: _Work
) -> Tensor:
    """Cosine [T,L] between each triangle's normal and a camera's view; 0 where the head itself hides its middle, and in
    frames in which that camera does not see the face.
    """
    faces = head.faces.numpy()
    focal = float(state.log_focal[term.camera].exp())
    x, y = term.center.tolist()
    K = np.array([[focal, 0, x], [0, focal, y], [0, 0, view.size]]) / view.size * [[RASTER], [RASTER], [1]]
    faces_there, K_there = head.faces.to(corners.device), torch.from_numpy(K).to(state.t)
    rows = []
    for part in parts(len(state.t)):
        vertices = _vertices(head, state, part) @ state.rig_R[term.camera].T + state.rig_t[term.camera]
        triangle = vertices[:, corners]
        normal = torch.linalg.cross(triangle[:, :, 1] - triangle[:, :, 0], triangle[:, :, 2] - triangle[:, :, 0])
        middle = triangle.mean(2)
        cosine = -torch.nn.functional.cosine_similarity(normal, middle, dim=-1)
        if cosine.is_cuda:
            rows.append(cosine * in_front(middle, vertices, faces_there, K_there, RASTER, DEPTH_SLACK))
            work.add(len(cosine))
            continue
        seen_first = partial(_in_front, faces=faces, K=K)
        pairs = zip(middle.numpy(), vertices.numpy(), strict=True)
        for value, seen in zip(cosine, in_order(seen_first, pairs), strict=True):
            rows.append(value[None] * torch.from_numpy(seen).to(value))
            work.add(1)
    return torch.cat(rows) * torch.from_numpy(view.seen).to(corners.device)[:, None]


def _in_front(
    of: tuple[NDArray[np.float32], NDArray[np.float32]], faces: NDArray[np.integer], K: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Which points [L,3] of a mesh [V,3] it does not hide itself, both in the camera's axes; K: for RASTER pixels a
    side.
    """
    points, vertices = of
    pixels, depth = project(vertices, np.eye(3), np.zeros(3), K)
    _, nearest = nearest_surface(pixels, depth, faces, RASTER, RASTER, cull_back=True)  # a head has no holes
    at, own = project(points, np.eye(3), np.zeros(3), K)
    column, row = np.clip(at.astype(int), 0, RASTER - 1).T
    return np.asarray(own < nearest[row, column] + DEPTH_SLACK)


def _vertices(head: Head, state: State, frames: slice) -> Tensor:
    """The mesh in axes of the first camera, [F,V,3], metres."""
    codes = state.split(frames)
    turns = turns_of(codes).rotation
    shape = state.shape.new_zeros(head.n_shape)
    shape[:len(state.shape)] = state.shape
    posed = pose_head(head, shape, codes.expression, matrix_to_6d(turns[:, 0]),
                      matrix_to_6d(turns[:, 1:]).flatten(1), codes.lids)
    return posed.vertices @ state.R[frames].mT + state.t[frames, None]
