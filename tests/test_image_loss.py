"""The image loss against a slow direct definition, and the fused one against the definition in torch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from blendshape_ops import image_loss

WEIGHTS: dict[str, Any] = {"l1_weight": 0.8, "dssim_weight": 0.2, "alpha_weight": 10.0}
BACKGROUNDS = {"black": None, "coloured": torch.tensor([0.9, 0.1, 0.4], dtype=torch.float64)}


def make_images(batch, height, width, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = 1.4 * torch.rand(batch, 3, height, width, dtype=torch.float64, generator=generator) - 0.2  # not clamped
    alpha = torch.rand(batch, height, width, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 256, (batch, height, width, 4), dtype=torch.uint8, generator=generator)
    return image.to(dtype), alpha.to(dtype), target


def direct_terms(image, alpha, target, background, composite):
    """The three terms by a loop over pixels and a two-dimensional window, as in the paper."""
    scaled = target.double() / 255
    wanted = scaled[..., :3]
    if composite:
        colour = torch.zeros(3, dtype=torch.float64) if background is None else background
        wanted = wanted * scaled[..., 3:] + colour * (1 - scaled[..., 3:])
    wanted = wanted.permute(0, 3, 1, 2)
    weights = torch.tensor([math.exp(-(d**2) / 4.5) for d in range(-5, 6)], dtype=torch.float64)
    window = torch.outer(weights, weights) / weights.sum() ** 2
    padded = [torch.nn.functional.pad(t, (5, 5, 5, 5)) for t in (image, wanted)]
    similarity = torch.zeros((), dtype=torch.float64)
    for y in range(image.shape[2]):
        for x in range(image.shape[3]):
            a, b = (t[:, :, y : y + 11, x : x + 11] for t in padded)
            mean_a, mean_b = ((window * t).sum((2, 3), keepdim=True) for t in (a, b))
            # With zero padding the window's weights do not change, so outside pixels count as zeros.
            var_a = (window * a * a).sum((2, 3), keepdim=True) - mean_a**2
            var_b = (window * b * b).sum((2, 3), keepdim=True) - mean_b**2
            cov = (window * a * b).sum((2, 3), keepdim=True) - mean_a * mean_b
            structure = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
            similarity += (structure / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4))).sum()
    l1 = (image - wanted).abs().mean()
    return torch.stack([l1, 1 - similarity / image.numel(), (alpha - scaled[..., 3]).square().mean()])


@pytest.mark.parametrize("backend", ["torch", "cpp"])
@pytest.mark.parametrize("composite", [True, False])
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_terms_equal_the_direct_definition(backend, composite, background):
    image, alpha, target = make_images(2, 7, 13)
    colour = BACKGROUNDS[background]
    total, terms = image_loss(image, alpha, target, colour, composite, **WEIGHTS, backend=backend)
    wanted = direct_terms(image, alpha, target, colour, composite)
    assert torch.allclose(terms, wanted, rtol=1e-12)
    assert torch.allclose(total, wanted @ torch.tensor([0.8, 0.2, 10.0], dtype=torch.float64), rtol=1e-12)
    assert not terms.requires_grad


def value_and_gradients(images, background, composite, backend):
    image, alpha, target = images
    image, alpha = image.clone().requires_grad_(), alpha.clone().requires_grad_()
    total, terms = image_loss(image, alpha, target, background, composite, **WEIGHTS, backend=backend)
    (3 * total).backward()  # an upstream gradient other than 1
    return total.detach(), terms, image.grad, alpha.grad


# Sizes below the window, at and across the bands of 32 rows, and not square.
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 5, 3), (1, 32, 40), (1, 33, 31), (3, 70, 12), (1, 128, 20)], ids=str)
@pytest.mark.parametrize("composite", [True, False])
def test_cpp_equals_definition(size, composite):
    images = make_images(*size)
    arguments = (images, BACKGROUNDS["coloured"], composite)
    for got, wanted in zip(
        value_and_gradients(*arguments, "cpp"), value_and_gradients(*arguments, "torch"), strict=True
    ):
        assert (got - wanted).abs().max() <= 1e-12 * wanted.abs().max()


def test_cpp_in_single_precision():
    wanted = value_and_gradients(make_images(2, 60, 50), None, True, "torch")
    got = value_and_gradients(make_images(2, 60, 50, torch.float32), None, True, "cpp")
    # Variances are differences of means of squares near 1, so 6e-8 grows by up to 1 / C2 = 1100; measured 3e-6.
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).abs().max() <= 3e-5 * b.abs().max()


def test_gradients_equal_finite_differences():
    image, alpha, target = make_images(1, 6, 14)

    def run(image, alpha):
        return image_loss(image, alpha, target, None, True, **WEIGHTS, backend="cpp")[0]

    # |I - G| is not differentiable at 0; no random pixel lies within the step of 1e-6 of it.
    assert torch.autograd.gradcheck(run, (image.requires_grad_(), alpha.requires_grad_()))


@pytest.mark.parametrize("backend", ["torch", "cpp"])
def test_equal_images_lose_nothing(backend):
    _, _, target = make_images(1, 20, 30)
    scaled = target.double() / 255
    image, alpha = (scaled[..., :3] * scaled[..., 3:]).permute(0, 3, 1, 2), scaled[..., 3]
    total, terms = image_loss(image, alpha, target, None, True, **WEIGHTS, backend=backend)
    assert abs(total) < 1e-14
    assert terms.abs().max() < 1e-14


def test_only_what_asks_gets_a_gradient():
    image, alpha, target = make_images(1, 8, 8)
    total, _ = image_loss(image.requires_grad_(), alpha, target, None, True, **WEIGHTS)
    total.backward()
    assert image.grad is not None
    assert alpha.grad is None
    with torch.no_grad():
        assert not image_loss(image, alpha, target, None, True, **WEIGHTS)[0].requires_grad


def test_results_do_not_depend_on_the_number_of_threads():
    images = make_images(2, 100, 50, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(value_and_gradients(images, None, True, "cpp"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (
            {"image": torch.zeros(2, 4, 8, 8)},
            ValueError,
            r"image: wanted shape .*, got \[2, 4, 8, 8\]",
        ),
        ({"image": torch.zeros(0, 3, 8, 8)}, ValueError, r"image: wanted at least one pixel"),
        ({"image": torch.zeros(1, 3, 8, 8).half()}, TypeError, r"image: wanted float32 or float64, got torch.float16"),
        ({"alpha": torch.zeros(1, 8, 9)}, ValueError, r"alpha: wanted shape \[1, 8, 8\], got \[1, 8, 9\]"),
        ({"target": torch.zeros(1, 8, 8, 4)}, TypeError, r"target: wanted torch.uint8, got torch.float32"),
        ({"target": torch.zeros(1, 8, 8, 3).byte()}, ValueError, r"target: wanted shape \[1, 8, 8, 4\]"),
        ({"background": torch.zeros(4)}, ValueError, r"background: wanted shape \[3\], got \[4\]"),
        ({"background": torch.zeros(3, device="meta")}, ValueError, r"background: wanted device cpu .* got meta"),
        ({"backend": "cuda"}, ValueError, r"backend: 'cuda' does not work on tensors on cpu"),
    ],
)
def test_bad_arguments(change, error, message):
    image, alpha, target = make_images(1, 8, 8, torch.float32)
    arguments = {"image": image, "alpha": alpha, "target": target, "background": None, "composite": True, **WEIGHTS}
    with pytest.raises(error, match=message):
        image_loss(**{**arguments, **change})
