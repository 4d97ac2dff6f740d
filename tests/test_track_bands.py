"""What the refinement samples: bands of spatial frequencies, and the part of the pictures that holds the points."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from tracking.photometric_term import sample, wide_blur, window


@pytest.mark.parametrize("sigma", [3.0, 4.0, 6.0, 12.0])
@pytest.mark.parametrize("shape", [(256, 256), (201, 255)])
def test_a_wide_blur_is_nearly_the_exact_one(sigma: float, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(scale=40, size=shape).astype(np.float32)
    image[80:120, 60:] += 100
    exact = cv2.GaussianBlur(image, (0, 0), sigma)
    inside = np.s_[20:-20, 20:-20]  # beside the border the small picture mirrors other pixels
    error = np.sqrt(np.mean((wide_blur(image, sigma) - exact)[inside] ** 2))
    assert error < 0.03 * exact[inside].std()


def test_samples_in_the_window_are_those_of_the_whole_picture() -> None:
    rng = np.random.default_rng(1)
    pictures = torch.from_numpy(rng.normal(size=(3, 1, 64, 64))).half()
    pixels = torch.from_numpy(rng.uniform((20, 30), (33, 41), (3, 50, 2))).float()
    part, inside = window(pictures, pixels)
    assert max(part.shape[2:]) < 20, "a small part was converted"
    torch.testing.assert_close(sample(part, inside), sample(pictures.float(), pixels), atol=2e-4, rtol=0)  # float32


@pytest.mark.parametrize("pixels", [[[-9.0, 70.0], [30.0, 63.9]], [[-50.0, -50.0], [-40.0, -45.0]],
                                    [[90.0, 3.0], [99.0, 5.0]], [[torch.nan, 1.0], [2.0, 3.0]]])
def test_points_beyond_the_picture_see_nothing(pixels: list[list[float]]) -> None:
    pictures, at = torch.ones(1, 1, 64, 64).half(), torch.tensor([pixels])
    found, wanted = sample(*window(pictures, at)), sample(pictures.float(), at)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0, equal_nan=True)
