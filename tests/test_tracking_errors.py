"""benchmarks/tracking_errors.py: what it calls an error, on heads whose errors are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from benchmarks.tracking_errors import Placed, errors_of, jitter_at_rest, quiet_frames, unsteadiness

FACE, SKULL = np.arange(40), np.arange(40, 60)
K = np.array([[800.0, 0, 256], [0, 800, 256], [0, 0, 1]])


@pytest.fixture
def true() -> Placed:
    """60 points of a head that turns, 0.6 m away."""
    rng = np.random.default_rng(0)
    points = rng.normal(scale=0.05, size=(60, 3))
    turns = Rotation.from_euler("y", 20 * np.sin(np.arange(12))[:, None], degrees=True).as_matrix()
    return Placed(np.einsum("tab,vb->tva", turns, points) + [0, 0, 0.6], K)


def test_truth_has_no_errors(true: Placed) -> None:
    assert max(abs(value) for value in vars(errors_of(true, true, FACE, SKULL)).values()) < 1e-4  # arccos near 1


def test_a_larger_head_further_away_is_the_same_picture(true: Placed) -> None:
    errors = errors_of(Placed(1.3 * true.vertices, K), true, FACE, SKULL)
    assert max(errors.vertex, errors.skull, errors.across, errors.along, errors.pixels, errors.distance) < 1e-6


def test_distance_and_focal_length_trade(true: Placed) -> None:
    ours = Placed(true.vertices + [0, 0, 0.3], K * np.array([[1.5], [1.5], [1]]))
    errors = errors_of(ours, true, FACE, SKULL)
    assert errors.distance == pytest.approx(0.3 / true.vertices[:, FACE, 2].mean(), rel=1e-6)
    assert errors.vertex < 1e-6 and errors.across < 0.3


def test_each_error_is_seen_where_it_is(true: Placed) -> None:
    moved = true.vertices.copy()
    moved[:, SKULL] += [0, 0.005, 0]
    errors = errors_of(Placed(moved, K), true, FACE, SKULL)
    assert errors.skull == pytest.approx(5, abs=0.01) and errors.vertex < 1e-6
    nodding = np.stack([Rotation.from_euler("x", angle, degrees=True).as_matrix() for angle in [2, -2] * 6])
    middle = true.vertices[:, FACE].mean(axis=1, keepdims=True)
    turned = np.einsum("tab,tvb->tva", nodding, true.vertices - middle) + middle
    errors = errors_of(Placed(turned, K), true, FACE, SKULL)
    assert errors.rotation == pytest.approx(2, abs=0.01) and errors.vertex < 1e-6
    shaken = true.vertices + np.array([0.001, 0, 0]) * np.tile([1, -1], 6)[:, None, None]
    errors = errors_of(Placed(shaken, K), true, FACE, SKULL)
    assert errors.across == pytest.approx(1, abs=0.05)
    assert errors.pixels == pytest.approx(800 / 600, rel=0.05)
    shape = true.vertices.copy()
    shape[:, FACE] += 0.002 * np.random.default_rng(1).choice([-1, 1], (1, len(FACE), 3)) / 3**0.5
    assert errors_of(Placed(shape, K), true, FACE, SKULL).vertex == pytest.approx(2, rel=0.15)


def test_jitter_is_the_noise_that_was_added(true: Placed) -> None:
    rng = np.random.default_rng(2)
    still = np.repeat(true.vertices[:1], 4000, axis=0)
    still[..., :2] += rng.normal(scale=1e-4, size=still[..., :2].shape)
    still[..., 2] += rng.normal(scale=3e-4, size=still[..., 2].shape)
    across, along = jitter_at_rest(Placed(still, K), FACE)
    assert across == pytest.approx(0.1 * 2**0.5, rel=0.02) and along == pytest.approx(0.3, rel=0.02)


def test_unsteadiness_sees_noise_and_no_even_motion() -> None:
    rng = np.random.default_rng(3)
    even = np.arange(400)[:, None, None] * np.array([0.5, -0.2]) + rng.uniform(size=(1, 30, 2))
    assert unsteadiness(even, np.arange(1, 399)) < 1e-9
    noisy = even + rng.normal(scale=0.2, size=even.shape)
    assert unsteadiness(noisy, np.arange(1, 399)) == pytest.approx(0.2 * 2**0.5, rel=0.05)


def test_quiet_frames_have_like_neighbours() -> None:
    images = np.zeros((20, 8, 8), np.uint8)
    images[:] = (np.arange(20) * 10)[:, None, None]
    images[5:9] = images[5]
    assert quiet_frames(images, 0.1).tolist() == [6, 7]
