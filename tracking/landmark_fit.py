"""A parametric head fitted to the landmarks of a whole clip at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flame import JOINT_NAMES, Head
from flame.rotations import matrix_from_6d, matrix_to_6d, matrix_to_axis_angle
from tracking.bundle import POSE, Prior, Problem, Progress, State, minimise
from tracking.landmark_embedding import IRISES, LOOSE_SPREAD, landmark_embedding
from tracking.landmark_term import (
    DETECTOR_NOISE,
    LandmarkTerm,
    estimate_offset,
    landmark_residuals,
    landmark_term,
    spread_of_residuals,
)
from tracking.records import BLENDSHAPE_NAMES, Fit, Observations, Rig
from tracking.start import BLINKS, best_scores, blink_columns, scores_of, start_of
from tracking.surface import EYE_ANGLES, JAW_ANGLES, LIDS, SurfacePoints, turns_of

GROWN_SIGMA = 0.05  # of grown people's eye distances, relative
OFFSET_FRAMES = 10  # a constant difference cannot be told from the codes of fewer frames
TOLERANCE = 1e-4     # of the cost, below which a step is the last one


@dataclass(frozen=True)
class FitSettings:
    """Standard deviations are what is expected before looking; lengths in metres, angles in radians.

    focal: pixels of the crop; None estimates it. focal_guess: in crop sides, with focal_sigma, a standard deviation of
    its logarithm: perspective tells little of it, so the guess matters. shape_codes: identity directions used.
    size_sigma: of the head's size, by its eye distance, relative to the mean head's.
    independent_frames: how many frames' worth of independent evidence about what is constant a clip holds; landmark
    errors are alike from frame to frame. landmark_weight: below 1, since the landmarks of a frame err together.
    expression_sigma: around the detector's scores (heads with ARKit's expressions) ; expression_limit: their largest
    code; a face may go a little beyond the sculpted extreme. jaw_sigma: around the rotation that belongs to the
    expression (the open head), or around rest (FLAME: free_jaw_sigma). gaze_sigma, vergence_sigma: of both eyes, and
    between them. *_bend: of second differences from frame to frame; raise to smooth less. offsets: estimate
    the constant difference between the detector's landmarks and the head's. lid_share: the part of a blink
    that goes to the eyelid codes where the expressions can close the lids too; both have the same effect on the mesh.
    iterations: at most, of each of the two passes.
    """

    focal: float | None = None
    focal_guess: float = 2.0
    focal_sigma: float = 0.04
    shape_codes: int = 100
    size_sigma: float = 0.01
    independent_frames: float = 10.0
    landmark_weight: float = 0.1
    expression_sigma: float = 0.15
    expression_limit: float = 1.1
    jaw_sigma: float = 0.03
    free_jaw_sigma: float = 0.15
    gaze_sigma: float = 0.2
    vergence_sigma: float = 0.03
    rotation_bend: float = 0.003
    translation_bend: float = 0.0015
    code_bend: float = 0.08
    lid_bend: float = 0.4
    gaze_bend: float = 0.15
    offsets: bool = True
    lid_share: float = 0.5
    iterations: int = 25


@dataclass(frozen=True, eq=False)
class LandmarkErrors:
    """RMS distance per frame [T], pixels of the crop, over the landmarks that lie firmly on the skin (the face oval
    slides along the outline): raw, and without the clip's constant difference between detector and head.
    """

    raw: NDArray[np.float32]
    aligned: NDArray[np.float32]


def fit_clip(
    head: Head,
    observations: Observations,
    settings: FitSettings | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Identity, focal length, and each frame's pose, expression, jaw, eyes and lids from landmarks and scores of one
    camera; see `fit_views`.
    """
    return fit_views(head, [observations], None, settings, device, progress)[0]


def fit_views(
    head: Head,
    views: Sequence[Observations],
    known: Rig | None = None,
    settings: FitSettings | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> tuple[Fit, Rig]:
    """One head's identity and motion from what one or several cameras saw of it, and the cameras.

    views: of the same T moments; the first camera's fit comes back. Landmarks of a moment in which a camera does not
    see the face are NaN. known: where the cameras stand (its K is not looked at); None solves for it.

    All frames are solved together (Levenberg-Marquardt, exact steps): first against the head's own landmarks, then
    with the constant difference between them and the detector's removed. `landmark_error` is
    `LandmarkErrors.aligned`. progress(done, total) is called after each step; device None: the CPU.

    Raises ValueError when there is no frame, a frame with too few landmarks, or a head without landmarks.
    """
    settings, device = settings or FitSettings(), device or torch.device("cpu")
    if not len(views[0]):
        raise ValueError("observations: no frame to fit")
    clip = clip_of(head, views, settings, device, known)
    total = settings.iterations * (2 if settings.offsets else 1)
    two_passes = settings.offsets and len(views[0]) >= OFFSET_FRAMES
    first = clip.problem
    if two_passes:
        # Detectors see irises lower than they are, which gaze would take up; on average people look straight ahead.
        first = replace(first, held=first.held | _gaze_columns(first.held))
    state = minimise(first, clip.start, settings.iterations, TOLERANCE, _part(progress, 0, total))
    if two_passes:
        clip.learn_offset(state)
        second = _part(progress, settings.iterations, total)
        state = minimise(clip.problem, state, settings.iterations, TOLERANCE, second)
    if progress is not None:
        progress(total, total)
    fit, rig = fit_of(head, state, views, settings)
    return measured(head, fit, rig, views, device), rig


@dataclass(eq=False)
class Clip:
    """A clip's problem (see `bundle.Problem`), where to start, and its landmarks by each camera. spread [L]: of the
    embedding; irises bool [L]. noise: of the detector, pixels of each camera.
    """

    problem: Problem
    start: State
    landmarks: list[LandmarkTerm]
    spread: Tensor
    irises: Tensor
    noise: list[float]
    independent: float

    def learn_offset(self, state: State) -> None:
        """Set the landmarks' constant difference and their expected errors to what `state` leaves over."""
        for term, noise in zip(self.landmarks, self.noise, strict=True):
            term.offset = estimate_offset(term, state, self.spread, self.independent)
            sigma = spread_of_residuals(landmark_residuals(term, state), noise)
            term.sigma = torch.where(self.irises, term.sigma, sigma)  # an iris wanders by gaze, not by error

    def errors(self, state: State) -> LandmarkErrors:
        firm, raw, aligned = self.spread < LOOSE_SPREAD, list[Tensor](), list[Tensor]()
        for term in self.landmarks:
            kept = term.offset
            term.offset = torch.zeros_like(kept)
            raw.append(landmark_residuals(term, state)[:, firm])
            term.offset = estimate_offset(term, state, self.spread, self.independent)
            aligned.append(landmark_residuals(term, state)[:, firm])
            term.offset = kept
        return LandmarkErrors(*(
            torch.cat(error, 1).square().sum(-1).nanmean(1).sqrt().cpu().numpy() for error in (raw, aligned)
        ))


def landmark_errors(
    head: Head, fit: Fit, observations: Observations, device: torch.device | str | None = None
) -> LandmarkErrors:
    """How well a fit (ours or another tracker's) meets the observed landmarks, by one measure for all."""
    return _errors(head, fit, None, [observations], device or torch.device("cpu"))


def _errors(
    head: Head, fit: Fit, rig: Rig | None, views: Sequence[Observations], device: torch.device | str
) -> LandmarkErrors:
    clip = clip_of(head, views, FitSettings(shape_codes=len(fit.shape)), device, rig)
    return clip.errors(state_of(head, fit, device, rig))


def clip_of(
    head: Head, views: Sequence[Observations], settings: FitSettings, device: torch.device | str,
    known: Rig | None = None,
) -> Clip:
    """The landmark problem of a clip, ready to solve; see `fit_views`."""
    embedding = landmark_embedding(head)
    n_shape, several = min(settings.shape_codes, head.n_shape), len(views) > 1
    points = SurfacePoints(head, embedding.triangle, embedding.barycentric, n_shape, device)
    terms = [landmark_term(view, embedding, points, settings.landmark_weight, camera, several)
             for camera, view in enumerate(views)]
    spread = torch.from_numpy(embedding.spread).to(points.rest)
    prior = clip_prior(head, views, settings, device, several and known is not None)
    start = start_of(head, views, terms, spread < LOOSE_SPREAD, prior.focal, known)
    for term in terms:
        metres = start.log_focal[term.camera].exp() / start.t[:, 2].median()
        term.sigma = torch.hypot(term.sigma, spread * metres)
    low, high = _bounds(head, settings)
    held_shared = torch.zeros(start.shared, dtype=torch.bool, device=points.rest.device)
    for camera, view in enumerate(views):
        held_shared[n_shape + camera] = bool(settings.focal or view.focal)
    held_shared[start.rig_at:] = known is not None
    problem = Problem(terms, prior, low.to(points.rest), high.to(points.rest), _held(head).to(device), held_shared)
    irises = torch.from_numpy(np.isin(embedding.index, IRISES)).to(device)
    return Clip(problem, start, terms, spread, irises, [DETECTOR_NOISE * view.size for view in views],
                settings.independent_frames)


def clip_prior(
    head: Head, views: Sequence[Observations], settings: FitSettings, device: torch.device | str, scaled: bool
) -> Prior:
    """What is expected of a face before its landmarks are looked at, see `FitSettings`. scaled: cameras whose places
    are known tell how large it is.
    """
    n, frames = head.n_expression, len(views[0])
    width = n + JAW_ANGLES + EYE_ANGLES + LIDS
    scores, blinks = scores_of(head, best_scores(views))
    coupled = bool(head.expression_jaw.any())
    jaw_sigma = settings.jaw_sigma if coupled else settings.free_jaw_sigma
    rows = torch.eye(width)
    rows[n:n + JAW_ANGLES, :n] = -head.expression_jaw.T
    eye = n + JAW_ANGLES
    vergence = torch.zeros(2, width)
    vergence[:, eye:eye + 2], vergence[:, eye + 2:eye + 4] = torch.eye(2), -torch.eye(2)
    named = named_expressions(head)
    sigma = [settings.expression_sigma if named else 1.0] * n + [jaw_sigma] * JAW_ANGLES
    sigma += [settings.gaze_sigma] * EYE_ANGLES + [settings.expression_sigma] * LIDS + [settings.vergence_sigma] * 2
    target = torch.zeros(frames, width + 2)
    target[:, :n], target[:, width - LIDS:width] = scores, blinks
    evidence = max(1.0, frames / settings.independent_frames)
    focal = [settings.focal or view.focal or settings.focal_guess * view.size for view in views]
    return Prior(
        torch.cat([rows, vergence]).to(device), target.to(device), torch.tensor(sigma).pow(-2).to(device),
        _smoothness(head, settings).to(device), _steady(views[0].source_index).to(device),
        evidence * _shape_precision(head, settings, scaled).to(device), torch.tensor(focal).log().to(device),
        evidence / settings.focal_sigma**2,
    )  # fmt: skip


def named_expressions(head: Head) -> bool:
    """True when the head's expressions are ARKit's, which the detector scores."""
    return sum(name in BLENDSHAPE_NAMES for name in head.expression_names) > head.n_expression / 2


def state_of(head: Head, fit: Fit, device: torch.device | str, rig: Rig | None = None) -> State:
    """The unknowns of a fit, and of the cameras (None: the fit's own). Lids that the expressions can close too count as
    expression.
    """
    rig = rig or single_rig(fit.K)

    def tensor(values: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)

    expression, lids = tensor(fit.expression), tensor(fit.eyelids)
    same = blink_columns(head)
    if same is not None:
        expression = expression.clone()
        expression[:, same] += lids
        lids = torch.zeros_like(lids)
    jaw = matrix_to_axis_angle(matrix_from_6d(tensor(fit.jaw)))
    left, right = (matrix_from_6d(part) for part in tensor(fit.eyes).split(6, 1))
    eyes = [
        torch.stack([torch.atan2(eye[:, 0, 2], eye[:, 2, 2]), torch.atan2(-eye[:, 1, 2], eye[:, 1, 1])], 1)
        for eye in (left, right)
    ]
    return State(tensor(fit.shape), torch.log(tensor(rig.K)[:, 0, 0]), torch.cat([expression, jaw, *eyes, lids], 1),
                 tensor(fit.R), tensor(fit.t), tensor(rig.R), tensor(rig.t))


def single_rig(K: NDArray[np.float32]) -> Rig:
    """One camera with these intrinsics [3,3]."""
    return Rig(K[None], np.eye(3, dtype=np.float32)[None], np.zeros((1, 3), np.float32))


def measured(
    head: Head, fit: Fit, rig: Rig, views: Sequence[Observations], device: torch.device | str
) -> Fit:
    """The fit with its `landmark_error`."""
    return replace(fit, landmark_error=_errors(head, fit, rig, views, device).aligned)


def fit_of(head: Head, state: State, views: Sequence[Observations], settings: FitSettings) -> tuple[Fit, Rig]:
    """The records of a solved state, landmark errors not yet measured."""
    state = _orthonormal(state)
    codes = state.split()
    turns = turns_of(codes).rotation
    expression, lids = codes.expression.clone(), codes.lids
    same = blink_columns(head)
    if same is not None:
        lids = settings.lid_share * expression[:, same]
        expression[:, same] -= lids
    shape = torch.zeros(head.n_shape)
    shape[:len(state.shape)] = state.shape.cpu()
    K = np.stack([np.array([[focal, 0, x], [0, focal, y], [0, 0, 1]], np.float32)
                  for focal, (x, y) in zip(state.log_focal.exp().tolist(), (v.center for v in views), strict=True)])

    def array(values: Tensor) -> NDArray[np.float32]:
        return values.cpu().numpy().astype(np.float32)

    fit = Fit(array(shape), array(expression), array(matrix_to_6d(turns[:, 0])),
              array(matrix_to_6d(turns[:, 1:]).flatten(1)), array(lids), array(state.R), array(state.t), K[0],
              np.zeros(len(lids), np.float32))
    return fit, Rig(K, array(state.rig_R), array(state.rig_t))


def _bounds(head: Head, settings: FitSettings) -> tuple[Tensor, Tensor]:
    n, turns = head.n_expression, JAW_ANGLES + EYE_ANGLES
    named = named_expressions(head)
    low = torch.tensor([0.0 if named else -torch.inf] * n + [-torch.inf] * turns + [0.0] * LIDS)
    high = torch.tensor([settings.expression_limit if named else torch.inf] * n + [torch.inf] * turns + [1.0] * LIDS)
    return low, high


def _held(head: Head) -> Tensor:
    """Lids that expressions close too, or that do nothing; and expressions that landmarks cannot see."""
    held = torch.zeros(POSE + head.n_expression + JAW_ANGLES + EYE_ANGLES + LIDS, dtype=torch.bool)
    held[-LIDS:] = blink_columns(head) is not None or not bool(head.eyelids.any())
    if "tongueOut" in head.expression_names:
        held[POSE + head.expression_names.index("tongueOut")] = True
    return held


def _gaze_columns(like: Tensor) -> Tensor:
    """Mask of the gaze among a frame's unknowns."""
    mask = torch.zeros_like(like)
    mask[-LIDS - EYE_ANGLES:-LIDS] = True
    return mask


def _shape_precision(head: Head, settings: FitSettings, scaled: bool) -> Tensor:
    """[S,S]: standard normal codes, and a distance of the eyes like the mean head's.

    One camera cannot see how large a head is. Expressions have a size in metres, though, so that an optimiser would
    trade the head's size for expressions nearer to their prior; grown people's eye distances differ by 5 % only.
    """
    n_shape = min(settings.shape_codes, head.n_shape)
    left, right = (head.joint_regressor[JOINT_NAMES.index(name)] for name in ("left_eye", "right_eye"))
    apart = (left - right) @ head.v_template
    by_shape = torch.einsum("v,vcs->cs", left - right, head.shape_dirs[:, :, :n_shape])
    stretch = (apart / apart.norm() ** 2) @ by_shape
    return torch.eye(n_shape) + torch.outer(stretch, stretch) / (GROWN_SIGMA if scaled else settings.size_sigma) ** 2


def _smoothness(head: Head, settings: FitSettings) -> Tensor:
    """Precision of second differences [6+C]."""
    names = head.expression_names
    unit = 1.0 if named_expressions(head) else 6.0  # FLAME's codes run from about -3 to 3
    codes = [settings.lid_bend if name in BLINKS else settings.code_bend * unit for name in names]
    sigma = [settings.rotation_bend] * 3 + [settings.translation_bend] * 3 + codes
    sigma += [settings.code_bend * 0.3] * JAW_ANGLES + [settings.gaze_bend] * EYE_ANGLES + [settings.lid_bend] * LIDS
    return torch.tensor(sigma).pow(-2)


def _steady(source_index: NDArray[np.int64]) -> Tensor:
    """True for frames as far from the one before as from the one after, in the clip's usual step."""
    steady = np.zeros(len(source_index), bool)
    if len(source_index) >= 3:
        step = np.diff(source_index)
        usual = step <= np.median(step)
        steady[1:-1] = usual[1:] & usual[:-1]
    return torch.from_numpy(steady)


def _part(progress: Progress | None, done: int, total: int) -> Progress | None:
    return None if progress is None else lambda step, _: progress(done + step, total)


def _orthonormal(state: State) -> State:
    """The same state with its rotations cleaned of the rounding that many small turns leave."""
    def clean(rotations: Tensor) -> Tensor:
        u, _, vh = torch.linalg.svd(rotations.double())
        return (u @ vh).to(rotations)

    return replace(state, R=clean(state.R), rig_R=clean(state.rig_R))
