"""Fitting and refining a clip's tracking on a GPU: the same as on the CPU."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from flame import load_head
from tests.test_track_fit import FRAMES, SMALL, angles, unsteadiness
from tests.test_track_surface import system
from tests.track_clips import make_truth, observe, picture
from tracking.landmark_fit import fit_clip
from tracking.normal_equations import NormalEquations, Solver
from tracking.photometric_fit import RefineSettings, refine_clip

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def head():
    return load_head("open")


@pytest.fixture(scope="module")
def clip(head):
    truth = make_truth(head, FRAMES, SMALL, seed=3)
    return truth, observe(head, truth, SMALL, noise=0.5)


def test_landmark_fit_is_that_of_the_cpu(head, clip):
    there, here = (fit_clip(head, clip[1], device=device) for device in ("cuda", "cpu"))
    # The same Gauss-Newton steps in float32, which end along the flat valley of depth and focal length. Guessed: far
    # below what the landmarks' noise of 0.5 px does; to be drawn closer once measured on a GPU.
    np.testing.assert_allclose(there.landmark_error, here.landmark_error, atol=0.02)
    assert angles(there.R, here.R).max() < 0.2
    np.testing.assert_allclose(there.expression, here.expression, atol=0.02)


@pytest.mark.parametrize("frames", [1, 2, 21])
def test_step_is_that_of_the_cpu(frames):
    equations = system(frames)[0]
    there = NormalEquations(**{item.name: getattr(equations, item.name).cuda() for item in fields(equations)})
    steps = (Solver(whole, 0.1).step(whole.gradient, whole.shared_gradient) for whole in (there, equations))
    for ours, wanted in zip(*steps, strict=True):
        torch.testing.assert_close(ours.cpu(), wanted, atol=1e-9, rtol=1e-9)  # double precision


def test_refinement_brings_the_mesh_to_the_pictures(head, clip):
    truth, observations = clip
    shift = np.random.default_rng(6).normal(scale=[2e-3, 2e-3, 4e-3], size=(FRAMES, 3)).astype(np.float32)
    shaken = replace(truth.fit, t=truth.fit.t + shift)
    pictures = [picture(head, truth, index, SMALL) for index in range(FRAMES)]
    settings = RefineSettings(points=800, bakes=1, free_identity=False)
    refined = refine_clip(head, shaken, observations, pictures.__getitem__, settings, "cuda")
    assert unsteadiness(head, refined, truth.fit) < 0.15 * unsteadiness(head, shaken, truth.fit)  # as on the CPU
