"""PSNR, SSIM and LPIPS against independent computations, inside masks, and on bad input."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch import Tensor, nn

from utils import lpips, metrics
from utils.score_files import mean_over_frames

POOL = 0
VGG16_PLAN = [64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512, POOL]


def pair(batch: int = 2, height: int = 40, width: int = 33, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(batch, 3, height, width, generator=generator)
    noise = torch.randn(batch, 3, height, width, generator=generator)
    return (target + 0.1 * noise).clamp(0, 1), target


def half_mask(batch: int = 2, height: int = 40, width: int = 33) -> Tensor:
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[:, : height // 2] = True
    return mask


# --- PSNR ---------------------------------------------------------------------------------------------------------


def test_psnr_of_a_constant_error_is_known() -> None:
    target = torch.full((1, 3, 8, 8), 0.5)
    assert metrics.psnr(target + 0.1, target).item() == pytest.approx(20.0, abs=1e-4)  # -10 log10(0.01); float32


def test_psnr_pools_over_channels_instead_of_averaging_their_psnr() -> None:
    target = torch.zeros(1, 3, 4, 4)
    prediction = target.clone()
    prediction[:, 0] = 0.3
    pooled = -10 * np.log10(0.09 / 3)
    assert metrics.psnr(prediction, target).item() == pytest.approx(pooled, abs=1e-4)


def test_psnr_averages_frames_separately() -> None:
    prediction, target = pair()
    single = [metrics.psnr(prediction[i : i + 1], target[i : i + 1]).item() for i in range(2)]
    assert metrics.psnr(prediction, target).tolist() == pytest.approx(single, abs=1e-5)


def test_masked_psnr_sees_only_the_mask() -> None:
    prediction, target = pair()
    mask = half_mask()
    spoiled = torch.where(mask[:, None], prediction, torch.rand_like(prediction))
    expected = metrics.psnr(prediction[:, :, :20], target[:, :, :20])
    assert torch.allclose(metrics.psnr(spoiled, target, mask), expected, atol=1e-4)  # float32 summation order


def test_identical_images_have_a_finite_psnr() -> None:
    _, target = pair()
    assert metrics.psnr(target, target).tolist() == pytest.approx([100.0, 100.0])


def test_an_empty_mask_gives_nan_and_is_left_out_of_the_mean() -> None:
    prediction, target = pair()
    mask = half_mask()
    mask[1] = False
    values = metrics.psnr(prediction, target, mask)
    assert torch.isfinite(values[0]) and torch.isnan(values[1])
    assert torch.isnan(metrics.ssim(prediction, target, mask)[1])
    assert mean_over_frames(values.tolist()) == values[0].item()
    assert mean_over_frames([None, float("nan")]) is None


# --- SSIM ---------------------------------------------------------------------------------------------------------


def reference_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM map [H,W] of one channel in float64 from SciPy's correlation with zero padding."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window /= window.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(image, window, 0, mode="constant"), window, 1, mode="constant")

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def test_ssim_map_agrees_with_a_double_precision_reference() -> None:
    prediction, target = pair()
    ours = metrics.ssim_map(prediction, target).double().numpy()
    for b in range(2):
        for c in range(3):
            expected = reference_ssim(prediction[b, c].double().numpy(), target[b, c].double().numpy())
            # float32 cancellation in E[x^2] - E[x]^2; worst seen 1e-6
            assert np.abs(ours[b, c] - expected).max() < 2e-5
    assert metrics.ssim(prediction, target).tolist() == pytest.approx(ours.mean(axis=(1, 2, 3)).tolist(), abs=1e-5)


def test_ssim_of_equal_images_is_one_and_noise_lowers_it() -> None:
    prediction, target = pair()
    assert metrics.ssim(target, target).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert (metrics.ssim(prediction, target) < 0.99).all()


def test_masked_ssim_is_the_mean_of_the_whole_map_over_the_mask() -> None:
    prediction, target = pair()
    expected = metrics.ssim_map(prediction, target)[:, :, :20].mean(dim=(1, 2, 3))
    assert torch.allclose(metrics.ssim(prediction, target, half_mask()), expected, atol=1e-5)


# --- comparison on black and argument checks ----------------------------------------------------------------------


def test_on_black_multiplies_by_alpha_and_clamps_the_prediction() -> None:
    rgba = torch.tensor([[[[255, 51, 0, 51]]]], dtype=torch.uint8)
    target, prediction = metrics.on_black(rgba, torch.tensor([1.5, -1.0, 0.25]).view(1, 3, 1, 1))
    assert target.flatten().tolist() == pytest.approx([0.2, 0.04, 0.0])
    assert prediction.flatten().tolist() == [1.0, 0.0, 0.25]


def test_bad_arguments_are_named() -> None:
    prediction, target = pair()
    with pytest.raises(ValueError, match=r"expected two \[B,3,H,W\] of one size, got \[2, 3, 40, 33\], \[1, 3"):
        metrics.psnr(prediction, target[:1])
    with pytest.raises(ValueError, match=r"mask: expected bool \[2, 40, 33\], got torch.float32"):
        metrics.ssim(prediction, target, torch.ones(2, 40, 33))
    with pytest.raises(ValueError, match=r"rgba: expected uint8 \[B,H,W,4\], got torch.uint8 \[1, 4, 4, 3\]"):
        metrics.on_black(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), prediction)
    with pytest.raises(ValueError, match=r"prediction: expected \[1, 3, 4, 4\] like the ground truth"):
        metrics.on_black(torch.zeros(1, 4, 4, 4, dtype=torch.uint8), prediction)


def test_every_reported_metric_is_defined_in_words() -> None:
    assert {"psnr", "ssim", "lpips_alex", "lpips_vgg", "head", "face", "eyes", "mouth"} <= metrics.DEFINITIONS.keys()
    assert "11x11" in metrics.DEFINITIONS["ssim"] and "1.5" in metrics.DEFINITIONS["ssim"]


# --- LPIPS against the package it comes from ------------------------------------------------------------------------


def plain_alexnet() -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride, padding, pool in [
        (3, 64, 11, 4, 2, True), (64, 192, 5, 1, 2, True), (192, 384, 3, 1, 1, False),
        (384, 256, 3, 1, 1, False), (256, 256, 3, 1, 1, True),
    ]:  # fmt: skip
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if pool else []
    return nn.Sequential(*layers)


def plain_vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in VGG16_PLAN:
        if outputs == POOL:
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
    return nn.Sequential(*layers)


BACKBONES = {"alex": ("alexnet", plain_alexnet), "vgg": ("vgg16", plain_vgg16)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random convolutions under the file names that a user's folder has: the comparison needs no download."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    for name, build in BACKBONES.values():
        state = {f"features.{key}": value for key, value in build().state_dict().items()}
        torch.save(state, folder / f"{name}_features.pth")
    return folder


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, weights: Path) -> Iterator[types.ModuleType]:
    """The `lpips` package itself, on a stand-in for torchvision that serves the same random convolutions."""
    models = types.ModuleType("torchvision.models")

    def serve(name: str, build: type) -> object:
        def network(pretrained: bool = True) -> types.SimpleNamespace:
            features = build()
            state = torch.load(weights / f"{name}_features.pth", weights_only=True)
            features.load_state_dict({key.removeprefix("features."): value for key, value in state.items()})
            return types.SimpleNamespace(features=features)

        return network

    for name, build in BACKBONES.values():
        setattr(models, name, serve(name, build))  # type: ignore[arg-type]
    torchvision = types.ModuleType("torchvision")
    torchvision.models = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    for name in [key for key in sys.modules if key.split(".")[0] == "lpips"]:
        monkeypatch.delitem(sys.modules, name)
    pytest.importorskip("lpips")
    yield importlib.import_module("lpips")
    for name in [key for key in sys.modules if key.split(".")[0] == "lpips"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_lpips_equals_the_published_package(name: str, package: types.ModuleType, weights: Path) -> None:
    prediction, target = pair(height=70, width=64)
    ours = lpips.load_lpips(name, weights)
    theirs = package.LPIPS(net=name, verbose=False)
    whole = theirs(prediction, target, normalize=True).flatten()
    assert whole.min() > 1e-3  # a comparison of zeros would prove nothing
    # float32 convolutions in another order: relative 1e-6 seen
    assert torch.allclose(ours(prediction, target), whole, rtol=1e-4)
    theirs.spatial = True
    expected = theirs(prediction, target, normalize=True)[:, 0]
    assert torch.allclose(lpips.spatial(ours.maps(prediction, target), 70, 64), expected, rtol=1e-3, atol=1e-6)


HEAD_SUMS = {  # of the vectors of version 0.1, so that a changed file is noticed
    "alex": (2.34953, 16.14303, 39.26844, 27.19718, 20.31718), "vgg": (6.92599, 8.85833, 17.51501, 51.52132, 47.03485),
}


# AlexNet's first layer steps by 4 pixels: heights of every remainder.
@pytest.mark.parametrize(("name", "height"), [("alex", 64), ("alex", 65), ("alex", 66), ("alex", 67), ("vgg", 70)])
def test_lpips_is_its_published_formula(name: str, height: int, weights: Path) -> None:
    prediction, target = pair(height=height, width=66)
    ours = lpips.load_lpips(name, weights)
    assert [float(head.sum()) for head in ours.heads] == pytest.approx(HEAD_SUMS[name], abs=1e-4)
    file, build = BACKBONES[name]
    network = build()
    state = torch.load(weights / f"{file}_features.pth", weights_only=True)
    network.load_state_dict({key.removeprefix("features."): value for key, value in state.items()})
    shift, scale = (torch.tensor(v)[:, None, None] for v in (lpips.INPUT_SHIFT, lpips.INPUT_SCALE))
    taps = sorted(lpips.NETWORKS[name].taps)
    expected = torch.zeros(len(prediction))
    with torch.no_grad():
        a, b = ((2 * image - 1 - shift) / scale for image in (prediction, target))
        for i, layer in enumerate(network):
            a, b = layer(a), layer(b)
            if i - 1 in taps:  # after the ReLU of a convolution that LPIPS looks behind
                unit_a, unit_b = (torch.nn.functional.normalize(features, dim=1) for features in (a, b))
                shares = ours.heads[taps.index(i - 1)][:, None, None]
                expected += ((unit_a - unit_b).square() * shares).sum(dim=1).mean(dim=(1, 2))
    assert torch.allclose(ours(prediction, target), expected, rtol=1e-4)


def test_lpips_for_training_hardly_differs(weights: Path) -> None:
    """bfloat16 keeps 8 bits of a number. The gradient is one of differences of nearly equal features: measured .08."""
    prediction, target = pair(height=65, width=66)
    found = []
    for model in (lpips.load_lpips("alex", weights), lpips.load_lpips("alex", weights).in_bfloat16()):
        image = prediction.clone().requires_grad_()
        value = model(image, target)
        value.sum().backward()
        assert value.dtype == torch.float32 and image.grad is not None
        found.append((value.detach(), image.grad))
    (value, slope), (half_value, half_slope) = found
    assert torch.allclose(half_value, value, rtol=0.02)
    assert float((half_slope - slope).norm()) < 0.15 * float(slope.norm())


def test_lpips_needs_no_other_package(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert float(lpips.load_lpips("alex", weights)(*pair(height=64, width=64))[0]) > 0


def test_lpips_is_zero_for_equal_images_and_grows_with_noise(weights: Path) -> None:
    model = lpips.load_lpips("alex", weights)
    prediction, target = pair(height=64, width=64)
    assert model(target, target).abs().max() == 0
    assert (model(prediction, target) > model((prediction + 3 * target) / 4, target)).all()


def test_lpips_gradient_is_finite_on_flat_black_and_weights_stay_frozen(weights: Path) -> None:
    model = lpips.load_lpips("vgg", weights)
    with torch.no_grad():
        for name, parameter in model.convolutions.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(-10.0)  # every feature zero: the norm's slope is infinite there
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    model(image, torch.zeros(1, 3, 32, 32)).sum().backward()
    assert image.grad is not None and torch.isfinite(image.grad).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_lpips_accepts_whole_network_files_under_torchvisions_name(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights / "alexnet_features.pth", weights_only=True)
    torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, tmp_path / "alexnet-owt-7be5be79.pth")
    prediction, target = pair(height=64, width=64)
    expected = lpips.load_lpips("alex", weights)(prediction, target)
    assert torch.equal(lpips.load_lpips("alex", tmp_path)(prediction, target), expected)


def test_missing_or_wrong_weights_are_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(lpips.MetricUnavailable, match=r"holds none of alexnet_features.pth.*--lpips_weights names"):
        lpips.load_lpips("alex", tmp_path)
    (tmp_path / "alexnet_features.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(lpips.MetricUnavailable, match=r"alexnet_features.pth \(--lpips_weights\): cannot be read"):
        lpips.load_lpips("alex", tmp_path)
    torch.save([1, 2], tmp_path / "alexnet_features.pth")
    with pytest.raises(lpips.MetricUnavailable, match="expected a dictionary of tensors, got list"):
        lpips.load_lpips("alex", tmp_path)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "alexnet_features.pth")
    with pytest.raises(
        lpips.MetricUnavailable, match=r"features.0.weight: expected a tensor \[64, 3, 11, 11\], got \[64, 3, 3"
    ):
        lpips.load_lpips("alex", tmp_path)
    torch.save({}, tmp_path / "alexnet_features.pth")
    with pytest.raises(lpips.MetricUnavailable, match=r"features.0.weight: expected .* got nothing"):
        lpips.load_lpips("alex", tmp_path)


def test_being_offline_is_a_reason_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, **options: object) -> None:
        assert options["weights_only"]
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(lpips.MetricUnavailable, match="VGG16 .* service not known; --lpips_weights names a folder"):
        lpips.load_lpips("vgg")


def test_lpips_arguments_are_checked(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"expected one of \['alex', 'vgg'\], got 'squeeze'"):
        lpips.load_lpips("squeeze")
    model = lpips.load_lpips("alex", weights)
    with pytest.raises(ValueError, match=r"at least 31 pixels a side, got \[30, 64\]"):
        model(torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64))
    with pytest.raises(ValueError, match=r"expected two \[B,3,H,W\] of one size"):
        model(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize("name", ["alex", "vgg"])
def test_the_smallest_allowed_image_works(name: str, weights: Path) -> None:
    side = lpips.NETWORKS[name].smallest
    prediction, target = pair(batch=1, height=side, width=side)
    assert torch.isfinite(lpips.load_lpips(name, weights)(prediction, target)).all()
