"""LPIPS (Zhang et al., CVPR 2018), the learned perceptual distance, in its published version 0.1.

The networks are written out here: the `lpips` package imports torchvision, whose builds do not load beside another
build of torch (CPU and CUDA), and the slope of its normalisation is infinite where all features are zero, so that a
training loss can become NaN there. Its linear heads, the small part that is LPIPS's own, are `lpips_heads.npz` (see
NOTICE); the convolutions come from a folder or from torchvision's standard download.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from blendshape_ops import feature_distance
from torch import Tensor, nn

# Mean and deviation of ImageNet colours, for images in [-1, 1]: constants of the published metric.
INPUT_SHIFT = (-0.030, -0.088, -0.188)
INPUT_SCALE = (0.458, 0.448, 0.450)
DOWNLOAD_TIMEOUT = 20.0  # seconds without an answer, after which an unreachable server counts as such
HEADS = Path(__file__).resolve().parent / "lpips_heads.npz"
DOWNLOAD = "https://download.pytorch.org/models/"


class MetricUnavailable(RuntimeError):
    """A metric cannot be computed here; the message is the reason to show beside the missing number."""


@dataclass(frozen=True)
class _Network:
    """One backbone: the convolutions in order, where pooling precedes them, and after which LPIPS looks."""

    name: str
    convolutions: tuple[tuple[int, int, int, int, int, int], ...]  # (index, in, out, kernel, stride, padding)
    pool_before: frozenset[int]
    pool: tuple[int, int]  # kernel, stride
    taps: frozenset[int]
    smallest: int  # pixels a side below which a pooling window no longer fits
    files: tuple[str, ...]  # in a folder of weights; the last one is torchvision's and is what gets downloaded


def _three(index: int, inputs: int, outputs: int) -> tuple[int, int, int, int, int, int]:
    return index, inputs, outputs, 3, 1, 1


NETWORKS = {
    "alex": _Network(
        "AlexNet",
        ((0, 3, 64, 11, 4, 2), (3, 64, 192, 5, 1, 2), _three(6, 192, 384), _three(8, 384, 256), _three(10, 256, 256)),
        frozenset({3, 6}), (3, 2), frozenset({0, 3, 6, 8, 10}), 31,
        ("alexnet_features.pth", "alexnet-owt-7be5be79.pth"),
    ),
    "vgg": _Network(
        "VGG16",
        (
            _three(0, 3, 64), _three(2, 64, 64), _three(5, 64, 128), _three(7, 128, 128),
            _three(10, 128, 256), _three(12, 256, 256), _three(14, 256, 256),
            _three(17, 256, 512), _three(19, 512, 512), _three(21, 512, 512),
            _three(24, 512, 512), _three(26, 512, 512), _three(28, 512, 512),
        ),
        frozenset({5, 10, 17, 24}), (2, 2), frozenset({2, 7, 14, 21, 28}), 16,
        ("vgg16_features.pth", "vgg16-397923af.pth"),
    ),
}  # fmt: skip


class Lpips(nn.Module):
    """Distance between two images: squared differences of unit-length features, weighted, summed over five layers.

    Frozen; gradients flow to the images. Build it with `load_lpips`.
    """

    def __init__(self, network: _Network) -> None:
        super().__init__()
        self.network = network
        self.convolutions = nn.ModuleDict()
        for index, inputs, outputs, kernel, stride, padding in network.convolutions:
            blocks = -(-kernel // stride)
            self.convolutions[str(index)] = nn.Conv2d(inputs * stride**2, outputs, blocks,
                                                      padding=padding if stride == 1 else 0)
        # The convolutions keep channels last, which saves a fifth of VGG16's time on a CPU.
        self.convolutions.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        widths = [outputs for index, _, outputs, *_ in network.convolutions if index in network.taps]
        self.heads = nn.ParameterList([torch.zeros(width) for width in widths])
        # Pictures in [0, 1] to what the network takes, (2 x - 1 - shift) / scale, as a factor and a summand.
        shift, scale = torch.tensor(INPUT_SHIFT).view(1, 3, 1, 1), torch.tensor(INPUT_SCALE).view(1, 3, 1, 1)
        self.factor: Tensor
        self.summand: Tensor
        self.register_buffer("factor", 2 / scale)
        self.register_buffer("summand", (-1 - shift) / scale)
        self.eval().requires_grad_(False)

    def in_bfloat16(self) -> Lpips:
        """This network with its convolutions in bfloat16 from now on, a third of the time on a GPU; for training."""
        self.convolutions.to(torch.bfloat16)
        return self

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """LPIPS of each pair of images [B,3,H,W] in [0,1]: float32 [B], 0 for equal images, lower is closer.

        Raises ValueError for images smaller than the network's pooling needs.
        """
        return average(self.maps(prediction, target))

    def maps(self, prediction: Tensor, target: Tensor) -> list[Tensor]:
        """The five layers' distances, float32 [B,h,w] each, at the layers' own resolutions. Arguments as `forward`."""
        smallest = self.network.smallest
        if prediction.shape != target.shape or prediction.ndim != 4 or prediction.shape[1] != 3:
            raise ValueError(
                "prediction, target: expected two [B,3,H,W] of one size, "
                f"got {list(prediction.shape)}, {list(target.shape)}"
            )
        if min(prediction.shape[-2:]) < smallest:
            raise ValueError(
                f"LPIPS with {self.network.name} needs images of at least {smallest} pixels a side, "
                f"got {list(prediction.shape[-2:])}"
            )
        pairs = zip(self._features(prediction), self._features(target), self.heads, strict=True)
        return [feature_distance(a, b, head) for a, b, head in pairs]

    def convolution(self, index: int) -> nn.Conv2d:
        """The layer of that number in the published network."""
        found = self.convolutions[str(index)]
        assert isinstance(found, nn.Conv2d)
        return found

    def _features(self, images: Tensor) -> Iterator[Tensor]:
        x = torch.addcmul(self.summand, images.float(), self.factor)
        for index, _, _, kernel, stride, padding in self.network.convolutions:
            if index in self.network.pool_before:
                x = F.max_pool2d(x, *self.network.pool)
            convolution = self.convolution(index)
            if stride > 1:
                x = _in_blocks(x, kernel, stride, padding)
            x = F.relu(convolution(x.to(convolution.weight.dtype, memory_format=torch.channels_last)))
            if index in self.network.taps:
                yield x


def _in_blocks(images: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Pictures [B,C,H,W], padded, as blocks of stride x stride pixels: [B, C stride^2, H/stride, W/stride].

    A convolution with steps of `stride` pixels is one with steps of one block (`_block_weights`), by the same sums:
    the gradient that cuDNN has for AlexNet's first layer as it stands takes a third of all of LPIPS.
    """
    missing = []
    for size in (images.shape[3], images.shape[2]):
        steps = (size + 2 * padding - kernel) // stride + 1
        missing += [padding, (steps + -(-kernel // stride) - 1) * stride - size - padding]
    return F.pixel_unshuffle(F.pad(images, missing), stride)


def _block_weights(weight: Tensor, stride: int) -> Tensor:
    """Weights [O,C,k,k] of a convolution with steps of `stride` pixels, for the blocks of `_in_blocks`."""
    outputs, inputs, kernel, _ = weight.shape
    blocks = -(-kernel // stride)
    missing = blocks * stride - kernel
    split = F.pad(weight, (0, missing, 0, missing)).view(outputs, inputs, blocks, stride, blocks, stride)
    return split.permute(0, 1, 3, 5, 2, 4).reshape(outputs, inputs * stride**2, blocks, blocks)


def average(maps: list[Tensor]) -> Tensor:
    """LPIPS [B] of the layers' maps: the mean of each over its pixels, summed."""
    return torch.stack([layer.mean(dim=(1, 2)) for layer in maps]).sum(dim=0)


def spatial(maps: list[Tensor], height: int, width: int) -> Tensor:
    """The distance at every pixel, [B,height,width]: each layer's map resized bilinearly, then summed."""
    resized = [F.interpolate(layer[:, None], (height, width), mode="bilinear", align_corners=False) for layer in maps]
    return torch.cat(resized, dim=1).sum(dim=1)


def load_lpips(name: str, folder: str | Path | None = None, smallest: int | None = None) -> Lpips:
    """Build LPIPS with its weights, on the CPU.

    Args:
        name: "alex" or "vgg".
        smallest: pixels of the shortest side of the images it is for, where known.
        folder: holds the convolutions as `alexnet_features.pth` / `vgg16_features.pth` (keys features.N.weight and
            features.N.bias) or torchvision's own files of the whole network. None: torch hub's cache, else
            torchvision's standard download, whose hash is checked.

    Raises:
        MetricUnavailable: weights are missing, unreadable, or of another network; images are too small for it.
        ValueError: an unknown name.
    """
    if name not in NETWORKS:
        raise ValueError(f"LPIPS network: expected one of {sorted(NETWORKS)}, got {name!r}")
    network = NETWORKS[name]
    if smallest is not None and smallest < network.smallest:
        raise MetricUnavailable(f"images of {smallest} pixels are too small for {network.name}")
    model = Lpips(network)
    source, state = _backbone(network, Path(folder) if folder else None)
    with torch.no_grad(), np.load(HEADS) as heads:
        for index, inputs, outputs, kernel, stride, _ in network.convolutions:
            convolution = model.convolution(index)
            weight = _tensor(state, f"features.{index}.weight", (outputs, inputs, kernel, kernel), source)
            convolution.weight.copy_(_block_weights(weight, stride))
            assert convolution.bias is not None
            convolution.bias.copy_(_tensor(state, f"features.{index}.bias", (outputs,), source))
        for i, head in enumerate(model.heads):
            head.copy_(torch.from_numpy(heads[f"{name}_{i}"]).view_as(head))
    return model


def lpips_loss(name: str, folder: str | Path | None, smallest: int, device: torch.device) -> Lpips:
    """LPIPS to be minimised, on `device`; arguments and errors as those of `load_lpips`."""
    loaded = load_lpips(name, folder, smallest).to(device)
    return loaded.in_bfloat16() if device.type == "cuda" else loaded


def _backbone(network: _Network, folder: Path | None) -> tuple[str, Mapping[str, Tensor]]:
    if folder is None:
        return _download(network)
    for file in (folder / name for name in network.files):
        if file.is_file():
            return str(file), _read(file)
    raise MetricUnavailable(f"{folder}: holds none of {', '.join(network.files)} ({network.name} weights for LPIPS); "
                            "--lpips_weights names the folder that holds one")


def _download(network: _Network) -> tuple[str, Mapping[str, Tensor]]:
    url = DOWNLOAD + network.files[-1]
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT):
            state = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except Exception as error:  # the network, the disk, the hash and the unpickler each fail with types of their own
        raise MetricUnavailable(
            f"{network.name} weights for LPIPS could not be fetched from {url}: {error}; "
            f"--lpips_weights names a folder that holds {' or '.join(network.files)}"
        ) from error
    return url, state


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torch.hub offers no timeout; without one a firewall that swallows packets hangs the evaluation for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated archives, foreign pickles and I/O errors have no common type
        raise MetricUnavailable(f"{file} (--lpips_weights): cannot be read as weights: {error}") from error
    if not isinstance(state, Mapping):
        raise MetricUnavailable(f"{file}: expected a dictionary of tensors, got {type(state).__name__}")
    return state


def _tensor(state: Mapping[str, Any], key: str, shape: tuple[int, ...], source: str) -> Tensor:
    value = state.get(key)
    if not isinstance(value, Tensor) or value.shape != shape:
        got = "nothing" if value is None else list(getattr(value, "shape", [])) or type(value).__name__
        raise MetricUnavailable(f"{source}: {key}: expected a tensor {list(shape)}, got {got}")
    return value
