"""A fit that grows with its clip: the identity of the first frames is kept, further frames are fitted to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from flame import Head
from tracking.bundle import State, minimise
from tracking.landmark_fit import TOLERANCE, Clip, FitSettings, clip_of, fit_of
from tracking.records import Fit, Observations

CONTEXT = 6  # frames before the further ones that are solved again with them, so that motion stays smooth


class ContinuedFit:
    """Identity, focal length and the detector's constant error from the first frames; then frame after frame.

    What all frames share is what makes a fit slow; further frames alone cost some milliseconds each.
    """

    def __init__(self, head: Head, observations: Observations, settings: FitSettings, device: torch.device) -> None:
        """Fit the first frames; `fit` is theirs. ValueError as `fit_clip`."""
        self._head, self._settings, self._device = head, settings, device
        clip = clip_of(head, [observations], settings, device)
        self._state = minimise(clip.problem, clip.start, settings.iterations, TOLERANCE, None)
        clip.learn_offset(self._state)
        self._state = minimise(clip.problem, self._state, settings.iterations, TOLERANCE, None)
        self._first = clip
        self._before = _last(observations, CONTEXT)
        self.fit = fit_of(head, self._state, [observations], settings)[0]

    def more(self, observations: Observations) -> Fit:
        """The fit of further frames, which follow those before; `fit` has them all then. ValueError as `fit_clip`."""
        context = self._before
        joined = _joined(context, observations)
        clip = clip_of(self._head, [joined], replace(self._settings, focal=float(self.fit.K[0, 0])), self._device)
        self._share(clip)
        start = replace(clip.start, shape=self._state.shape, log_focal=self._state.log_focal)
        state: State = minimise(clip.problem, start, self._settings.iterations, TOLERANCE, None)
        whole = fit_of(self._head, state, [joined], self._settings)[0]
        found = _frames(whole, len(context))
        self.fit = _appended(self.fit, found)
        self._before = _last(joined, CONTEXT)
        return found

    def _share(self, clip: Clip) -> None:
        """Hold what the first frames told."""
        clip.problem.held_shared[:] = True
        here, first = clip.landmarks[0], self._first.landmarks[0]
        here.offset, here.sigma = first.offset, first.sigma


_OF_FIT = ("expression", "jaw", "eyes", "eyelids", "R", "t", "landmark_error")
_OF_OBSERVATIONS = ("landmarks", "depth", "blendshapes", "pose", "source_index")


def _frames(fit: Fit, first: int) -> Fit:
    arrays: dict[str, Any] = {name: getattr(fit, name)[first:] for name in _OF_FIT}
    return replace(fit, **arrays)


def _appended(fit: Fit, more: Fit) -> Fit:
    arrays: dict[str, Any] = {name: np.concatenate([getattr(fit, name), getattr(more, name)]) for name in _OF_FIT}
    return replace(fit, **arrays)


def _last(observations: Observations, count: int) -> Observations:
    arrays: dict[str, Any] = {name: getattr(observations, name)[-count:] for name in _OF_OBSERVATIONS}
    return replace(observations, **arrays)


def _joined(one: Observations, other: Observations) -> Observations:
    arrays: dict[str, Any] = {name: np.concatenate([getattr(one, name), getattr(other, name)])
                              for name in _OF_OBSERVATIONS}
    return replace(one, **arrays)
