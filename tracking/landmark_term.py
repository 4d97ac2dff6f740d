"""The landmarks of a clip as a cost term, and the constant difference between the detector's points and the head's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flame.landmarks import LandmarkEmbedding
from tracking.bundle import State, project
from tracking.landmark_embedding import IRIS_CENTRES, IRISES
from tracking.records import BLENDSHAPE_NAMES, Observations
from tracking.surface import SurfacePoints, pixel_by_camera, turns_of

DETECTOR_NOISE = 1.0 / 512  # of the crop's side, per axis: MediaPipe's jitter on a sharp face of ordinary size
CUTOFF = 3.0                # errors beyond three times the expected one are outliers
MIN_LANDMARKS = 30          # of a frame; fewer leave its pose and codes to the priors


@dataclass(eq=False)
class LandmarkTerm:
    """Projected minus observed landmarks over their expected error (a `bundle.DataTerm`).

    observed [T,L,2] pixels; weight [T,L], 0 for missing ones; sigma [L]: expected error per axis, pixels;
    offset [L,3]: constant difference, metres in head space; camera, center: see `bundle.DataTerm`.
    """

    points: SurfacePoints
    offset: Tensor
    observed: Tensor
    weight: Tensor
    sigma: Tensor
    center: Tensor
    camera: int = 0
    cutoff: float = CUTOFF

    def residual(self, frames: slice, pixels: Tensor, want_slope: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        slope = torch.eye(2, device=pixels.device) / self.sigma[:, None, None] if want_slope else None
        return (pixels - self.observed[frames]) / self.sigma[:, None], slope, self.weight[frames]


def landmark_term(
    observations: Observations, embedding: LandmarkEmbedding, points: SurfacePoints, weight: float, camera: int,
    may_miss: bool,
) -> LandmarkTerm:
    """The term at zero offset, its sigma the detector's noise alone. weight: of a landmark of the face; may_miss:
    whether there may be frames without any landmark.

    Raises ValueError naming the first frame that shows fewer than `MIN_LANDMARKS` finite landmarks.
    """
    observed = observations.landmarks[:, embedding.index]
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(observed).all(-1))
    few = np.flatnonzero((finite.sum(1) < MIN_LANDMARKS) & ~(may_miss & ~observations.seen))
    if len(few):
        raise ValueError(
            f"landmarks: {len(few)} of {len(finite)} frames show fewer than {MIN_LANDMARKS} finite landmarks, first "
            f"frame {few[0]} (video frame {observations.source_index[few[0]]}) with {finite[few[0]].sum()}; drop them"
        )

    def tensor(values: NDArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(points.rest.device)

    noise = np.full(len(embedding.spread), DETECTOR_NOISE * observations.size)
    return LandmarkTerm(
        points, torch.zeros_like(points.rest), tensor(np.where(finite[..., None], observed, 0)),
        tensor(finite * _weights(observations, embedding.index, weight)),
        tensor(noise), tensor(observations.center), camera,
    )  # fmt: skip


def estimate_offset(term: LandmarkTerm, state: State, spread: Tensor, independent: float) -> Tensor:
    """Where the detector sees each landmark, relative to the head's point: [L,3], metres, constant over the clip.

    Per landmark the ridge regression of its residuals on a shift in head space, shrunk by `spread` [L] (metres), its
    standard deviation, as if only `independent` frames of the clip told independent things: a detector errs the same
    way in like frames.
    """
    information, moment = _offset_system(term, state)
    frames = len(state.t)
    ridge = torch.eye(3).to(information) * (max(1.0, frames / independent) / spread.square())[:, None, None]
    return torch.linalg.solve(information + ridge, moment)


def landmark_residuals(term: LandmarkTerm, state: State) -> Tensor:
    """Observed minus projected landmarks [T,L,2], pixels; NaN where none was observed."""
    codes = state.split()
    points = term.points.place(state.shape, codes, turns_of(codes)) + term.offset
    error = term.observed - project(state, points, term)[0]
    return torch.where(term.weight[..., None] > 0, error, torch.nan)


def spread_of_residuals(residuals: Tensor, noise: float) -> Tensor:
    """Expected error per axis [L], pixels, from residuals [T,L,2]: median and detector noise together."""
    square = residuals.square().sum(-1).nanmedian(0).values
    # the median of |r|^2 of a 2D normal distribution is 2 ln 2 sigma^2
    return (square.nan_to_num(0) / (2 * np.log(2)) + noise**2).sqrt()


def _offset_system(term: LandmarkTerm, state: State) -> tuple[Tensor, Tensor]:
    """Information [L,3,3] and moment [L,3] of the offset, about zero offset."""
    codes = state.split()
    points = term.points.place(state.shape, codes, turns_of(codes))
    pixels, camera, _ = project(state, points, term)
    turn = (state.rig_R[term.camera] @ state.R)[:, None]
    slope = pixel_by_camera(camera, float(state.log_focal[term.camera].exp())) @ turn / term.sigma[:, None, None]
    value = (term.observed - pixels) / term.sigma[:, None]
    seen = (term.weight > 0).to(value)
    weight = seen / (1 + (value - (slope @ term.offset[..., None]).squeeze(-1)).square().sum(-1) / CUTOFF**2)
    return (torch.einsum("tl,tlka,tlkb->lab", weight, slope, slope),
            torch.einsum("tl,tlka,tlk->la", weight, slope, value))


def _weights(observations: Observations, index: NDArray[np.int64], weight: float) -> NDArray[np.float32]:
    """[T,L]: `weight`; of the irises, which no other landmark repeats, 1 but less behind a closing lid, a guess."""
    weights = np.full((len(observations), len(index)), weight, np.float32)
    for name, first in (("eyeBlinkLeft", IRIS_CENTRES["left_eye"]), ("eyeBlinkRight", IRIS_CENTRES["right_eye"])):
        opening = np.clip(1 - np.nan_to_num(observations.blendshapes[:, BLENDSHAPE_NAMES.index(name)]), 0, 1) ** 2
        own = np.flatnonzero((index >= first) & (index < first + len(IRISES) // 2))
        weights[:, own] = opening[:, None]
    return weights
